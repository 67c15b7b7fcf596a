//! The results as a picture: bars of the ratio to native on a logarithmic scale, with the goals marked.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use plotters::{
    coord::Shift,
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use crate::{
    results::{Results, RowResults},
    row::Section,
    table::ratio_text,
    variant::{NATIVE, WSGUARD},
};

const WIDTH: i32 = 1200;
/// Where the scale begins and ends, pixels.
const SCALE: (i32, i32) = (330, 1120);
/// What the scale shows; smaller ratios are drawn as the smallest.
const RATIOS: (f64, f64) = (0.003, 3.0);
const TICKS: [(f64, &str); 7] = [
    (0.003, "0.003"),
    (0.01, "0.01"),
    (0.03, "0.03"),
    (0.1, "0.1"),
    (0.3, "0.3"),
    (1.0, "1 = native"),
    (3.0, "3"),
];
const BAR: i32 = 11;
const ROW_GAP: i32 = 9;
const SECTION_HEIGHT: i32 = 34;
const HEADER_HEIGHT: i32 = 104;
const FOOTER_HEIGHT: i32 = 46;

const INK: RGBColor = RGBColor(32, 36, 42);
const FAINT: RGBColor = RGBColor(216, 220, 226);
const GREY: RGBColor = RGBColor(106, 114, 124);
const GUARD: RGBColor = RGBColor(0, 104, 139);
const GOAL: RGBColor = RGBColor(196, 40, 40);
/// Distinct in lightness too, for readers who do not see the hues.
const PEER_COLOURS: [RGBColor; 5] = [
    RGBColor(230, 159, 0),
    RGBColor(148, 103, 189),
    RGBColor(90, 90, 90),
    RGBColor(0, 158, 115),
    RGBColor(170, 170, 170),
];

/// A picture of some sections.
#[derive(Clone, Copy)]
struct Picture {
    suffix: &'static str,
    title: &'static str,
    sections: &'static [Section],
}

const PICTURES: [Picture; 2] = [
    Picture {
        suffix: "data",
        title: "Reading and writing data",
        sections: &[Section::Reads, Section::Writes, Section::SmallIo],
    },
    Picture {
        suffix: "files",
        title: "Small files, trees and programs",
        sections: &[Section::SmallFiles, Section::Trees],
    },
];

/// Draws each picture as SVG and PNG beside the JSON file; returns what was written.
///
/// # Errors
/// If a file cannot be written, or no font is installed to draw a PNG with.
pub(crate) fn draw(results: &Results, json: &Path) -> Result<Vec<PathBuf>> {
    let font = register_font();
    let mut written = Vec::new();
    for picture in PICTURES {
        let rows: Vec<_> =
            results.rows.iter().filter(|row| picture.sections.contains(&row.section)).collect();
        if rows.is_empty() {
            continue;
        }
        let size = (WIDTH.unsigned_abs(), height(results, &rows).unsigned_abs());
        let stem = json.file_stem().context("the results' file has no name")?.to_string_lossy();
        let [svg, png] =
            ["svg", "png"].map(|ending| json.with_file_name(format!("{stem}-{}.{ending}", picture.suffix)));
        draw_on(&SVGBackend::new(&svg, size).into_drawing_area(), picture, results, &rows)
            .with_context(|| format!("cannot draw {svg:?}"))?;
        written.push(svg);
        if font.is_ok() {
            draw_on(&BitMapBackend::new(&png, size).into_drawing_area(), picture, results, &rows)
                .with_context(|| format!("cannot draw {png:?}"))?;
            written.push(png);
        }
    }
    font.context("the PNG pictures were not drawn")?;
    Ok(written)
}

/// Loads a font for bitmaps; an SVG's reader brings its own.
fn register_font() -> Result<()> {
    const DIRECTORIES: [&str; 3] = ["/usr/share/fonts", "/usr/local/share/fonts", "/usr/share/texmf/fonts"];
    const NAMES: [&str; 4] =
        ["DejaVuSans.ttf", "LiberationSans-Regular.ttf", "NotoSans-Regular.ttf", "FreeSans.ttf"];
    let fonts = DIRECTORIES.iter().flat_map(|directory| find_files(Path::new(directory), &NAMES));
    let path = fonts
        .min()
        .context("no DejaVu, Liberation, Noto or FreeFont Sans is installed; try fonts-dejavu-core")?;
    // Lives as long as the process, which draws once.
    let bytes: &'static [u8] = std::fs::read(&path)?.leak();
    plotters::style::register_font("sans-serif", FontStyle::Normal, bytes)
        .map_err(|_| anyhow!("{path:?} is no font"))
}

fn find_files(directory: &Path, names: &[&str]) -> Vec<PathBuf> {
    // A directory that does not exist or cannot be read holds no font for us.
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut found = Vec::new();
    for path in entries.filter_map(|entry| entry.ok().map(|entry| entry.path())) {
        if path.is_dir() {
            found.extend(find_files(&path, names));
        } else if path.file_name().is_some_and(|name| names.iter().any(|wanted| name == *wanted)) {
            found.push(path);
        }
    }
    found
}

/// The bars of a row, native left out: it is the line at 1.
fn columns(results: &Results) -> Vec<(&str, RGBColor)> {
    let mut colours = PEER_COLOURS.iter().cycle();
    let names = results.variants.iter().map(|variant| variant.name.as_str()).filter(|name| *name != NATIVE);
    names.map(|name| (name, if name == WSGUARD { GUARD } else { *colours.next().unwrap_or(&GREY) })).collect()
}

fn row_height(results: &Results) -> i32 {
    columns(results).iter().map(|_| BAR).sum::<i32>() + ROW_GAP
}

fn height(results: &Results, rows: &[&RowResults]) -> i32 {
    let headings =
        rows.chunk_by(|one, next| one.section == next.section).map(|_| SECTION_HEIGHT).sum::<i32>();
    HEADER_HEIGHT + headings + rows.iter().map(|_| row_height(results)).sum::<i32>() + FOOTER_HEIGHT
}

/// Where a ratio lies on the scale.
fn place(ratio: f64) -> i32 {
    let (low, high) = (RATIOS.0.ln(), RATIOS.1.ln());
    let fraction = (ratio.clamp(RATIOS.0, RATIOS.1).ln() - low) / (high - low);
    SCALE.0 + (f64::from(SCALE.1 - SCALE.0) * fraction).round() as i32
}

/// A drawing area whose errors are ours.
struct Canvas<'a, B: DrawingBackend>(&'a DrawingArea<B, Shift>);

impl<B: DrawingBackend> Canvas<'_, B> {
    fn text(&self, text: &str, at: (i32, i32), size: i32, colour: RGBColor, horizontal: HPos) -> Result<()> {
        let style = ("sans-serif", size).into_font().color(&colour).pos(Pos::new(horizontal, VPos::Center));
        self.0.draw(&Text::new(text.to_owned(), at, style)).map_err(|error| anyhow!("{error}"))
    }

    fn bar(&self, from: (i32, i32), to: (i32, i32), colour: RGBColor) -> Result<()> {
        self.0.draw(&Rectangle::new([from, to], colour.filled())).map_err(|error| anyhow!("{error}"))
    }
}

fn draw_on<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    picture: Picture,
    results: &Results,
    rows: &[&RowResults],
) -> Result<()> {
    area.fill(&WHITE).map_err(|error| anyhow!("{error}"))?;
    let canvas = Canvas(area);
    let bottom = height(results, rows) - FOOTER_HEIGHT;
    draw_header(&canvas, picture, results)?;
    draw_scale(&canvas, bottom)?;
    let mut y = HEADER_HEIGHT;
    for group in rows.chunk_by(|one, next| one.section == next.section) {
        let title = group.first().map_or("", |row| row.section.title());
        canvas.text(title, (16, y + SECTION_HEIGHT / 2 + 3), 17, INK, HPos::Left)?;
        y += SECTION_HEIGHT;
        for row in group {
            draw_row(&canvas, results, row, y)?;
            y += row_height(results);
        }
    }
    area.present().map_err(|error| anyhow!("{error}"))
}

fn draw_header<B: DrawingBackend>(canvas: &Canvas<'_, B>, picture: Picture, results: &Results) -> Result<()> {
    let title = format!("{}: speed relative to native, more is better", picture.title);
    canvas.text(&title, (16, 26), 23, INK, HPos::Left)?;
    let subtitle =
        format!("{}; medians of {} rounds in one run; logarithmic scale", results.machine, results.rounds);
    canvas.text(&subtitle, (16, 52), 15, GREY, HPos::Left)?;
    let mut x = 16;
    for (name, colour) in columns(results) {
        canvas.bar((x, 72), (x + 14, 84), colour)?;
        canvas.text(name, (x + 20, 79), 15, INK, HPos::Left)?;
        x += 44 + 9 * i32::try_from(name.len())?;
    }
    canvas.bar((x + 6, 69), (x + 9, 88), GOAL)?;
    canvas.text("goal of wsguard", (x + 18, 79), 15, INK, HPos::Left)
}

fn draw_scale<B: DrawingBackend>(canvas: &Canvas<'_, B>, bottom: i32) -> Result<()> {
    for (ratio, label) in TICKS {
        let x = place(ratio);
        let colour = if ratio == 1.0 { GREY } else { FAINT };
        canvas.bar((x, HEADER_HEIGHT), (x + 1, bottom), colour)?;
        canvas.text(label, (x, bottom + 16), 14, GREY, HPos::Center)?;
        canvas.text(label, (x, HEADER_HEIGHT - 8), 12, GREY, HPos::Center)?;
    }
    Ok(())
}

fn draw_row<B: DrawingBackend>(
    canvas: &Canvas<'_, B>,
    results: &Results,
    row: &RowResults,
    top: i32,
) -> Result<()> {
    let columns = columns(results);
    let bars = columns.iter().map(|_| BAR).sum::<i32>();
    canvas.text(&row.title, (SCALE.0 - 12, top + bars / 2), 15, INK, HPos::Right)?;
    for ((name, colour), y) in columns.iter().zip((top..).step_by(BAR as usize)) {
        if let Some(ratio) = row.cell(name).and_then(|cell| cell.ratio) {
            canvas.bar((SCALE.0, y), (place(ratio).max(SCALE.0 + 2), y + BAR - 2), *colour)?;
        }
    }
    if let Some(goal) = row.goal_ratio() {
        let x = place(goal);
        canvas.bar((x - 1, top - 3), (x + 1, top + bars + 1), GOAL)?;
    }
    // Last, on white: neither a grid line nor a goal may cross a number.
    for ((name, _), y) in columns.iter().zip((top..).step_by(BAR as usize)) {
        let ratio = row.cell(name).and_then(|cell| cell.ratio);
        let text = ratio.map_or("no result".to_owned(), ratio_text);
        let start = ratio.map_or(SCALE.0, place) + 5;
        canvas.bar((start, y), (start + 7 * i32::try_from(text.len())? + 2, y + BAR - 1), WHITE)?;
        let ink = if *name == WSGUARD { INK } else { GREY };
        canvas.text(&text, (start + 2, y + BAR / 2), 12, ink, HPos::Left)?;
    }
    Ok(())
}
