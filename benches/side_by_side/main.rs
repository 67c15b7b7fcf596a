//! Speed of native, wsguard and its peers, side by side in one run (see `benches/README.md`).
//!
//! All variants are mounted at once and stay mounted; the mounts live in a private namespace and go away
//! with this process, however it ends.

mod args;
mod chart;
mod cleanup;
mod corpus;
mod image;
mod machine;
mod measure;
mod results;
mod row;
mod run;
mod site;
mod sys;
mod table;
mod variant;
mod watchdog;
mod workload;

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    rc::Rc,
};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;

use crate::{
    args::Args,
    image::ImageSize,
    machine::Machine,
    results::{Results, VariantInfo},
    row::Row,
    site::{Material, Scale},
    table::Style,
    variant::{BARE, Binary, NATIVE, PEERS, Variant, WSGUARD},
    watchdog::Watchdog,
};

/// More than this need not be touched: no row holds as much at a time.
const TOUCH_LIMIT_BYTES: u64 = 10 << 30;

fn main() -> ExitCode {
    match bench(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell if stderr is gone.
            writeln!(std::io::stderr(), "error: {error:#}").ok();
            ExitCode::FAILURE
        }
    }
}

fn bench(args: &Args) -> Result<()> {
    if let Some(path) = &args.render {
        return report(&Results::read(path)?, args, path);
    }
    let rows = select_rows(&args.only)?;
    if args.list {
        return list(&rows);
    }
    ensure!(rustix::process::geteuid().is_root(), "mounting and dropping caches need root; run it with sudo");
    fs::create_dir_all(&args.out).with_context(|| format!("cannot create {:?}", args.out))?;
    let results = measure(args, &rows)?;
    let path = args.out.join(format!("{}.json", args.name));
    results.write(&path)?;
    report(&results, args, &path)
}

fn select_rows(only: &[String]) -> Result<Vec<Row>> {
    let mut rows = row::catalog();
    if let Some(unknown) =
        only.iter().find(|prefix| !rows.iter().any(|row| row.name.starts_with(prefix.as_str())))
    {
        bail!("no row's name starts with {unknown:?}; --list shows all of them");
    }
    rows.retain(|row| only.is_empty() || only.iter().any(|prefix| row.name.starts_with(prefix)));
    Ok(rows)
}

fn list(rows: &[Row]) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    for row in rows {
        let goal = row.goal.map_or_else(String::new, |goal| goal.to_string());
        writeln!(stdout, "{:28} {:44} {goal}", row.name, row.title)?;
    }
    Ok(())
}

/// Prints the table, draws the pictures, and updates the README.
fn report(results: &Results, args: &Args, json: &Path) -> Result<()> {
    std::io::stdout().write_all(table::render(results, Style::Terminal)?.as_bytes())?;
    if let Some(readme) = &args.readme {
        table::update_readme(results, readme)?;
    }
    for path in chart::draw(results, json)? {
        writeln!(std::io::stderr(), "wrote {}", path.display())?;
    }
    Ok(())
}

/// Takes the machine down again on every way out of the function that holds it.
struct Teardown;

impl Drop for Teardown {
    fn drop(&mut self) {
        if let Err(error) = cleanup::end_everything() {
            // Nobody is left to tell if stderr is gone.
            writeln!(std::io::stderr(), "error: cannot clean up: {error:#}").ok();
        }
    }
}

fn measure(args: &Args, rows: &[Row]) -> Result<Results> {
    let needs_binary = wants(args, WSGUARD) || names(args, BARE);
    let binary = needs_binary.then(|| Binary::find(args.wsguard.as_deref())).transpose()?;
    sys::enter_private_mount_namespace().context("cannot enter a private mount namespace")?;
    sys::note_stop_signals()?;
    let scale = if args.quick { Scale::QUICK } else { Scale::FULL };
    let material = Rc::new(Material::new(scale));
    let parent = args.base.as_deref().unwrap_or(Path::new(env!("CARGO_TARGET_TMPDIR")));
    fs::create_dir_all(parent)?;
    let base = tempfile::Builder::new().prefix("side-by-side-").tempdir_in(parent);
    let base =
        base.with_context(|| format!("cannot create a directory in {parent:?}"))?.keep().canonicalize()?;
    cleanup::add_directory(&base);
    let _teardown = Teardown;
    let watchdog = Watchdog::start()?;
    let base = filesystem(args, base, &material)?;
    let variants = mount_all(args, binary.as_ref(), &base, &material)?;
    if !args.no_pretouch && !args.quick {
        machine::touch_memory_once(TOUCH_LIMIT_BYTES)?;
    }
    let infos = variants
        .iter()
        .map(|variant| VariantInfo { name: variant.name.clone(), version: variant.version.clone() });
    let mut results = Results {
        schema: Results::SCHEMA,
        machine: Machine::describe(&base)?,
        rounds: args.rounds,
        quick: args.quick,
        variants: infos.collect(),
        rows: Vec::new(),
        failures: Vec::new(),
    };
    run::Run::new(rows, &variants, &watchdog, &base)?.run(&mut results)?;
    Ok(results)
}

/// Returns where the variants go: a filesystem of their own below `base`, or `base` itself if the user chose it.
fn filesystem(args: &Args, base: PathBuf, material: &Material) -> Result<PathBuf> {
    if args.base.is_some() {
        return Ok(base);
    }
    let point = base.join("filesystem");
    let size = if args.quick { ImageSize::Quick } else { ImageSize::Full };
    image::mount(&base, &point, size, &material.block)?;
    Ok(point)
}

fn wants(args: &Args, name: &str) -> bool {
    args.variants.is_empty() || names(args, name)
}

/// Whether a variant is asked for by name.
fn names(args: &Args, name: &str) -> bool {
    args.variants.iter().any(|wanted| wanted == name)
}

fn mount_all(
    args: &Args,
    binary: Option<&Binary>,
    base: &Path,
    material: &Rc<Material>,
) -> Result<Vec<Variant>> {
    let known = [NATIVE, WSGUARD, BARE].into_iter().chain(PEERS);
    if let Some(unknown) =
        args.variants.iter().find(|wanted| !known.clone().any(|name| name == wanted.as_str()))
    {
        bail!("there is no variant {unknown:?}; known are {}", known.collect::<Vec<_>>().join(", "));
    }
    let mut variants = vec![Variant::native(base, material)?];
    if let Some(binary) = binary {
        for name in [WSGUARD, BARE]
            .into_iter()
            .filter(|name| if *name == BARE { names(args, name) } else { wants(args, name) })
        {
            variants.push(Variant::wsguard(name, binary, base, material)?);
        }
    }
    for name in PEERS.into_iter().filter(|name| wants(args, name)) {
        match Variant::peer(name, base, material)? {
            Some(peer) => variants.push(peer),
            None => writeln!(std::io::stderr(), "{name} is not installed and left out")?,
        }
    }
    for (name, path) in &args.mount {
        variants.push(Variant::mounted(name, path, material)?);
    }
    Ok(variants)
}
