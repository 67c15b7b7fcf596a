//! safetensors files. The header is read with serde rather than the `safetensors` crate, which takes a type of
//! element that it does not know for damage; a newer writer must not make a checkpoint torn.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::numpy::exact;
use crate::evidence::Evidence;
use crate::report::Findings;
use crate::window::{Check, Flaw, Window, le};

const MAX_HEADER: u64 = 100_000_000;

#[derive(Deserialize)]
struct Tensor {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// All but the metadata, whose names may be anything.
#[derive(Deserialize)]
struct Maybe {
    dtype: Option<String>,
    shape: Option<Vec<u64>>,
    data_offsets: Option<(u64, u64)>,
}

/// Reads a header; the quick way fails where metadata has names of tensors' fields.
fn read_header(header: &[u8]) -> serde_json::Result<BTreeMap<String, Value>> {
    let Ok(quick) = serde_json::from_slice::<BTreeMap<String, Maybe>>(header) else {
        return serde_json::from_slice(header);
    };
    let values = quick.into_iter().map(|(name, value)| {
        let value = match value {
            Maybe { dtype: Some(dtype), shape: Some(shape), data_offsets: Some(data_offsets) } => {
                Value::Tensor(Tensor { dtype, shape, data_offsets })
            }
            Maybe { .. } => Value::Metadata(IgnoredAny),
        };
        (name, value)
    });
    Ok(values.collect())
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Value {
    Tensor(Tensor),
    Metadata(IgnoredAny),
}

pub(super) fn probe(window: Window<'_>, out: &mut Findings) -> Check<()> {
    let size = window.size();
    let prefix = window.read(0, 8)?;
    let length = le(&prefix, 0, 8).unwrap_or(0);
    if !(2..=MAX_HEADER).contains(&length) {
        return Err(Flaw::broken(format!("a header of {length} bytes")));
    }
    let header = window.read(8, length)?;
    let values = read_header(&header).map_err(|error| Flaw::broken(format!("header: {error}")))?;
    let mut ranges = Vec::new();
    for (name, value) in &values {
        match value {
            Value::Tensor(tensor) => ranges.push(checked_range(name, tensor)?),
            Value::Metadata(_) if name == "__metadata__" => {}
            Value::Metadata(_) => return Err(Flaw::broken(format!("{name:?} is no tensor"))),
        }
    }
    ranges.sort_unstable();
    let mut end = 0;
    for (from, to) in &ranges {
        if *from != end {
            return Err(Flaw::broken(format!("data at {end} belongs to no tensor or to two")));
        }
        end = *to;
    }
    let expected = end.checked_add(8 + length).ok_or_else(|| Flaw::broken("the data is too long"))?;
    exact(size, expected, ranges.len() as u64, out)
}

fn checked_range(name: &str, tensor: &Tensor) -> Check<(u64, u64)> {
    let (from, to) = tensor.data_offsets;
    let Some(length) = to.checked_sub(from) else {
        return Err(Flaw::broken(format!("tensor {name:?} ends before it begins")));
    };
    let bits: Option<u64> = match tensor.dtype.as_str() {
        "F4" => Some(4),
        "F6_E2M3" | "F6_E3M2" => Some(6),
        "BOOL" => Some(8),
        dtype if dtype.starts_with("F8_") => Some(8),
        "BF16" => Some(16),
        dtype => dtype.trim_start_matches(['F', 'I', 'U', 'C']).parse().ok(),
    };
    let elements = tensor.shape.iter().try_fold(1_u64, |product, &length| product.checked_mul(length));
    let Some(elements) = elements else { return Err(Flaw::broken(format!("shape of tensor {name:?}"))) };
    match bits.map(|bits| elements.checked_mul(bits)) {
        Some(bits) if bits.map(|bits| bits.div_ceil(8)) != Some(length) => {
            Err(Flaw::torn(Evidence::StorageShort {
                key: name.to_owned(),
                size: length,
                expected: bits.unwrap_or(u64::MAX).div_ceil(8),
            }))
        }
        // An element that is not known: the offsets alone have to do.
        _ => Ok((from, to)),
    }
}

/// The index of a model in several files: `{"metadata": {"total_size": …}, "weight_map": {tensor: file}}`.
pub(super) fn probe_index(window: Window<'_>, out: &mut Findings) -> Check<()> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
        metadata: Option<serde_json::Value>,
    }
    let text = window.read(0, window.size())?;
    let index: Index =
        serde_json::from_slice(&text).map_err(|error| Flaw::broken(format!("index: {error}")))?;
    let total = index.metadata.as_ref().and_then(|metadata| metadata.get("total_size")?.as_f64());
    for file in index.weight_map.values() {
        out.need(file, 1);
    }
    if let Some(total) = total {
        out.facts.producer = Some(format!("{} shards of {total} bytes", out.needs.len()));
    }
    out.note(Evidence::LengthMatches { size: window.size(), parts: index.weight_map.len() as u64 });
    Ok(())
}
