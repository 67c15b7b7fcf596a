//! Formats of single files: which one it is, and whether it is whole.

mod gguf;
mod hdf5;
mod msgpack;
mod numpy;
mod onnx;
mod pickled;
mod safetensors;
mod tensor_index;
pub(crate) mod torch;
mod torch_facts;
mod trees;
pub(crate) mod zip;

use std::fmt;

use crate::coverage::Coverage;
use crate::evidence::Evidence;
use crate::report::{FileReport, Findings};
use crate::source::ReadAt;
use crate::window::{Budget, Check, Flaw, Limits, Window};

use zip::Zip;

/// What kind of file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Format {
    /// `torch.save` since 1.6.
    TorchZip,
    /// `torch.save` before 1.6, or without its zip option.
    TorchLegacy,
    /// A scripted or traced torch module.
    TorchScript,
    /// A program of `torch.export`.
    TorchExport,
    /// One numpy array.
    Npy,
    /// Several numpy arrays.
    Npz,
    /// safetensors.
    Safetensors,
    /// The list of files of a model in shards.
    ShardIndex,
    /// HDF5, also Keras' weights.
    Hdf5,
    /// A Keras model.
    Keras,
    /// Flax' msgpack.
    Msgpack,
    /// ONNX.
    Onnx,
    /// GGUF.
    Gguf,
    /// A pickle.
    Pickle,
    /// A pickle with arrays in it, or a compressed one.
    Joblib,
    /// A model of XGBoost as JSON.
    XgboostJson,
    /// A model of XGBoost as binary JSON.
    XgboostBinary,
    /// A model of LightGBM.
    LightGbm,
    /// The index of a TensorFlow checkpoint.
    TensorIndex,
    /// A zip archive of unknown content.
    Zip,
    /// None of these.
    Unrecognised,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TorchZip => "torch",
            Self::TorchLegacy => "torch (old format)",
            Self::TorchScript => "TorchScript",
            Self::TorchExport => "torch export",
            Self::Npy => "npy",
            Self::Npz => "npz",
            Self::Safetensors => "safetensors",
            Self::ShardIndex => "shard index",
            Self::Hdf5 => "HDF5",
            Self::Keras => "keras",
            Self::Msgpack => "msgpack",
            Self::Onnx => "ONNX",
            Self::Gguf => "GGUF",
            Self::Pickle => "pickle",
            Self::Joblib => "joblib",
            Self::XgboostJson => "XGBoost JSON",
            Self::XgboostBinary => "XGBoost binary JSON",
            Self::LightGbm => "LightGBM",
            Self::TensorIndex => "TensorFlow index",
            Self::Zip => "zip",
            Self::Unrecognised => "an unknown format",
        })
    }
}

/// The old torch format begins with a pickle of this number.
const TORCH_MAGIC: &[u8] =
    &[0x80, 2, 0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, b'.'];

impl Format {
    /// The format that files of this name have as a rule; a file of any other content may have it.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        let lower = name.to_ascii_lowercase();
        if lower.ends_with(".safetensors.index.json") || lower.ends_with(".bin.index.json") {
            return Some(Self::ShardIndex);
        }
        let (stem, extension) = lower.rsplit_once('.')?;
        Some(match extension {
            "pt" | "pth" | "ckpt" | "pt2" | "pth.tar" => Self::TorchZip,
            "tar" if stem.ends_with(".pth") => Self::TorchZip,
            "bin"
                if ["pytorch_model", "model", "optimizer", "scheduler", "adapter_model", "training_args"]
                    .iter()
                    .any(|known| stem.starts_with(known)) =>
            {
                Self::TorchZip
            }
            "npy" => Self::Npy,
            "npz" => Self::Npz,
            "safetensors" => Self::Safetensors,
            "h5" | "hdf5" | "hdf" => Self::Hdf5,
            "keras" => Self::Keras,
            "msgpack" => Self::Msgpack,
            "onnx" => Self::Onnx,
            "gguf" => Self::Gguf,
            "pkl" | "pickle" => Self::Pickle,
            "joblib" => Self::Joblib,
            "ubj" => Self::XgboostBinary,
            "xgb" => Self::XgboostJson,
            "lgb" => Self::LightGbm,
            "index" => Self::TensorIndex,
            _ => return None,
        })
    }
}

/// Judges one file. `name` is the last component of its path; it decides where content has no magic number.
///
/// Reads headers only, within `limits`; executes nothing.
#[must_use]
pub fn probe_file(name: &str, file: &dyn ReadAt, coverage: Coverage, limits: Limits) -> FileReport {
    let budget = Budget::new(limits);
    let mut out = Findings::default();
    let size = match file.size() {
        Ok(size) => size,
        Err(error) => {
            let window = Window::new(file, &budget, 0);
            let flaw = Flaw::unsure(Evidence::Unreadable { error: error.kind().to_string() });
            let format = Format::of_name(name).unwrap_or(Format::Unrecognised);
            return out.judge(format, Err(flaw), &window, coverage);
        }
    };
    let window = Window::new(file, &budget, size);
    let named = Format::of_name(name);
    let mut archive = None;
    let (format, mut structure) = match detect(&window, name, named, &mut archive) {
        Ok(Some(format)) => {
            out.note(Evidence::Signature(format));
            (format, check(window, name, format, archive, &mut out))
        }
        Ok(None) => {
            let format = named.unwrap_or(Format::Unrecognised);
            (format, unlike_its_name(&window, name, named, &mut out))
        }
        Err(flaw) => (named.unwrap_or(Format::Unrecognised), Err(flaw)),
    };
    // safetensors gives its temporary file the full length before it writes: a killed writer leaves a whole header in
    // front of nothing. Only the name tells, where nobody watched.
    if format == Format::Safetensors && name.starts_with(".tmp") && structure.is_ok() {
        structure = Err(Flaw::torn(Evidence::UnfinishedMarker { name: name.to_owned() }));
    }
    if out.expected.is_none()
        && let Err(Flaw { evidence: Evidence::EndsEarly { expected, .. }, .. }) = &structure
    {
        out.expected = Some(*expected);
    }
    out.judge(format, structure, &window, coverage)
}

/// Without a magic number: formats that have none are checked by their name, others are damaged or unknown.
fn unlike_its_name(window: &Window<'_>, name: &str, named: Option<Format>, out: &mut Findings) -> Check<()> {
    if window.size() == 0 {
        return Err(match named {
            Some(_) => Flaw::torn(Evidence::Empty),
            None => Flaw::unsure(Evidence::Empty),
        });
    }
    let Some(format) = named else {
        return Err(Flaw::unsure(Evidence::Signature(Format::Unrecognised)));
    };
    out.note(Evidence::NameOnly(format));
    match format {
        Format::Onnx | Format::Msgpack | Format::ShardIndex | Format::TensorIndex => {
            check(*window, name, format, None, out)
        }
        // Protocols 0 and 1 have no magic number.
        Format::Pickle if matches!(window.read_some(0, 1)?.as_slice(), [b'(' | b'}' | b']' | b'c']) => {
            check(*window, name, format, None, out)
        }
        // Names that other programs use as well: their content may be anything.
        Format::Joblib | Format::Pickle | Format::XgboostBinary | Format::XgboostJson | Format::LightGbm => {
            Err(Flaw::unsure(Evidence::Unsupported { what: format!("content that is no {format}") }))
        }
        Format::Safetensors | Format::Hdf5 | Format::Keras | Format::Gguf | Format::Npz | Format::Npy => {
            Err(Flaw::broken(format!("content that is no {format}")))
        }
        _ if is_all_zero(window) => Err(Flaw::broken("it begins with zeros only")),
        _ => Err(Flaw::unsure(Evidence::Unsupported { what: format!("content that is no {format}") })),
    }
}

fn is_all_zero(window: &Window<'_>) -> bool {
    window.read_some(0, 512).is_ok_and(|bytes| bytes.iter().all(|byte| *byte == 0))
}

/// Tells the format by content, or `None` when content has no magic number.
fn detect<'a>(
    window: &Window<'a>,
    name: &str,
    named: Option<Format>,
    archive: &mut Option<Zip<'a>>,
) -> Check<Option<Format>> {
    let head = window.read_some(0, 64)?;
    let starts = |magic: &[u8]| head.starts_with(magic);
    Ok(if starts(b"PK\x03\x04") {
        if let Ok(zip) = Zip::read(*window) {
            *archive = Some(zip);
        }
        Some(zip_kind(window, archive.as_ref(), named)?)
    } else if starts(b"PK\x05\x06") && named == Some(Format::Npz) {
        Some(Format::Npz)
    } else if starts(TORCH_MAGIC) {
        Some(Format::TorchLegacy)
    } else if starts(numpy::MAGIC) {
        Some(Format::Npy)
    } else if starts(b"GGUF") {
        Some(Format::Gguf)
    } else if head.get(8) == Some(&b'{')
        && (named == Some(Format::Safetensors) || head.get(5..8) == Some(&[0; 3]))
    {
        // Looked for before pickle: a header of 0x280 bytes begins like one.
        Some(Format::Safetensors)
    } else if matches!(head.as_slice(), [0x80, 2..=5, ..]) {
        Some(if named == Some(Format::Joblib) { Format::Joblib } else { Format::Pickle })
    } else if starts(b"tree\n") {
        Some(Format::LightGbm)
    } else if starts(b"{") && head.windows(9).any(|part| part == b"\"learner\"") {
        Some(Format::XgboostJson)
    } else if starts(b"{L") && head.windows(7).any(|part| part == b"learner") {
        Some(Format::XgboostBinary)
    } else if matches!(head.as_slice(), [0x78, 0x01 | 0x5e | 0x9c | 0xda, ..])
        && named == Some(Format::Joblib)
    {
        Some(Format::Joblib)
    } else if name.ends_with(".index") {
        Some(Format::TensorIndex)
    } else if hdf5::find(window).is_some() {
        Some(Format::Hdf5)
    } else {
        None
    })
}

/// What a zip archive is, by the name of its first entry or by its own name.
fn zip_kind(window: &Window<'_>, archive: Option<&Zip<'_>>, named: Option<Format>) -> Check<Format> {
    if let Some(archive) = archive {
        let has = |name: &str| archive.root_of(name).is_some();
        if has("data.pkl") {
            let is_script =
                has("constants.pkl") || archive.entries.iter().any(|entry| entry.name.contains("/code/"));
            return Ok(if is_script { Format::TorchScript } else { Format::TorchZip });
        }
        if has("archive_format") || has("archive_version") {
            return Ok(Format::TorchExport);
        }
        if has("config.json") && has("metadata.json") {
            return Ok(Format::Keras);
        }
        if named == Some(Format::Npz)
            || archive.entries.first().is_some_and(|entry| entry.name.ends_with(".npy"))
        {
            return Ok(Format::Npz);
        }
    }
    if let Some(named) = named {
        return Ok(named);
    }
    let first = window.read_some(30, 256)?;
    let has = |name: &[u8]| first.windows(name.len()).any(|part| part == name);
    Ok(if has(b"data.pkl") { Format::TorchZip } else { Format::Zip })
}

fn check<'a>(
    window: Window<'a>,
    name: &str,
    format: Format,
    archive: Option<Zip<'a>>,
    out: &mut Findings,
) -> Check<()> {
    // An archive that could not be read is read again, for the reason.
    let zip = || archive.map_or_else(|| Zip::read(window), Ok);
    match format {
        Format::TorchZip | Format::TorchScript | Format::TorchExport => {
            torch::probe(window, &zip()?, format, out)
        }
        Format::TorchLegacy => torch::probe_legacy(window, out),
        Format::Npy => numpy::probe_npy(window, out),
        Format::Npz => numpy::probe_npz(window, &zip()?, out),
        Format::Safetensors => safetensors::probe(window, out),
        Format::ShardIndex => safetensors::probe_index(window, out),
        Format::Hdf5 => hdf5::probe(window, out),
        Format::Keras => hdf5::probe_keras(window, &zip()?, out),
        Format::Msgpack => msgpack::probe(window, out),
        Format::Onnx => onnx::probe(window, out),
        Format::Gguf => gguf::probe(window, out),
        Format::Pickle => pickled::probe(window, out),
        Format::Joblib if window.read_some(0, 1)?.first() == Some(&0x78) => {
            Err(Flaw::unsure(Evidence::Unsupported {
                what: "a compressed pickle, which only a deep look can judge".into(),
            }))
        }
        Format::Joblib => pickled::probe(window, out),
        Format::XgboostJson => trees::probe_xgboost_json(window, out),
        Format::XgboostBinary => trees::probe_ubjson(window, out),
        Format::LightGbm => trees::probe_lightgbm(window, out),
        Format::TensorIndex => tensor_index::probe(window, name, out),
        Format::Zip => zip().map(|zip| {
            out.expected = Some(window.size());
            out.note(Evidence::ZipDirectory { entries: zip.entries.len() as u64 });
        }),
        Format::Unrecognised => Err(Flaw::unsure(Evidence::Signature(Format::Unrecognised))),
    }
}
