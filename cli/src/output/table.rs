use comfy_table::{
    Attribute, Cell as ComfyCell, CellAlignment, Color, ColumnConstraint, ContentArrangement,
    Table as ComfyTable, Width, presets,
};

use crate::output::text::printable;

/// The least width that a wrapping column keeps before fixed columns start to wrap too.
const MIN_FLEXIBLE_WIDTH: u16 = 12;

/// The blank columns between two columns.
const GAP: u16 = 2;

/// What a value means; colour repeats what the words already say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// Nothing special.
    Plain,
    /// As it should be.
    Good,
    /// Degraded.
    Warning,
    /// Broken.
    Bad,
    /// Of less interest.
    Faint,
}

/// One value of a table; its control characters are escaped.
#[derive(Clone, Debug)]
pub struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// Makes a value without a tone.
    pub fn new(text: impl AsRef<str>) -> Self {
        Self::toned(text, Tone::Plain)
    }

    /// Makes a value with a tone.
    pub fn toned(text: impl AsRef<str>, tone: Tone) -> Self {
        Self { text: printable(text.as_ref()).into_owned(), tone }
    }

    fn render(self) -> ComfyCell {
        let cell = ComfyCell::new(self.text);
        match self.tone {
            Tone::Plain => cell,
            Tone::Good => cell.fg(Color::Green),
            Tone::Warning => cell.fg(Color::Yellow),
            Tone::Bad => cell.fg(Color::Red),
            Tone::Faint => cell.add_attribute(Attribute::Dim),
        }
    }
}

/// A column's heading and how it behaves when the terminal is narrow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    /// Keeps its width as long as the wrapping columns have some left.
    Fixed(&'static str),
    /// A number: fixed, and aligned to the right.
    Number(&'static str),
    /// Wraps first: paths and sentences.
    Wrapping(&'static str),
}

impl Column {
    fn heading(self) -> &'static str {
        match self {
            Self::Fixed(heading) | Self::Number(heading) | Self::Wrapping(heading) => heading,
        }
    }
}

/// Rows under headings. In a terminal it wraps to the width; in a pipe every row is one line.
///
/// The text carries colour codes always: the stream that it is written to removes them where they are unwanted.
#[derive(Debug)]
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// Makes an empty table.
    pub fn new(columns: impl Into<Vec<Column>>) -> Self {
        Self { columns: columns.into(), rows: Vec::new() }
    }

    /// Adds a row, one value for each column.
    pub fn row(&mut self, cells: impl Into<Vec<Cell>>) {
        self.rows.push(cells.into());
    }

    /// Returns the table as lines that are at most `width` wide, if given.
    pub fn render(self, width: Option<u16>) -> String {
        let mut table = ComfyTable::new();
        table.load_style(presets::NOTHING).enforce_styling();
        // Without it, the blanks beside a coloured value are coloured too and not trimmed at the line's end.
        table.style_text_only();
        table.set_header(
            self.columns.iter().map(|column| ComfyCell::new(column.heading()).add_attribute(Attribute::Bold)),
        );
        table
            .add_rows(self.rows.into_iter().map(|row| row.into_iter().map(Cell::render).collect::<Vec<_>>()));
        for (index, column) in self.columns.iter().enumerate() {
            let Some(rendered) = table.column_mut(index) else { continue };
            rendered.set_padding((0, GAP));
            if matches!(column, Column::Number(_)) {
                rendered.set_cell_alignment(CellAlignment::Right);
            }
        }
        match width {
            Some(width) => fit(&mut table, &self.columns, width),
            None => {
                table.set_content_arrangement(ContentArrangement::Disabled);
            }
        }
        let mut text = table.trim_fmt();
        text.push('\n');
        text
    }
}

/// Lets wrapping columns share what the fixed ones leave; without enough left, every column wraps.
fn fit(table: &mut ComfyTable, columns: &[Column], width: u16) {
    table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    let contents = table.column_max_content_widths();
    let (mut fixed, mut flexible) = (0u16, 0u16);
    for (column, content) in columns.iter().zip(&contents) {
        match column {
            Column::Wrapping(_) => {
                flexible = flexible.saturating_add(MIN_FLEXIBLE_WIDTH.min(*content)).saturating_add(GAP);
            }
            Column::Fixed(_) | Column::Number(_) => {
                fixed = fixed.saturating_add(*content).saturating_add(GAP);
            }
        }
    }
    if fixed.saturating_add(flexible) > width {
        return;
    }
    for (index, column) in columns.iter().enumerate() {
        let (Some(rendered), Some(content)) = (table.column_mut(index), contents.get(index)) else {
            continue;
        };
        if !matches!(column, Column::Wrapping(_)) {
            rendered.set_constraint(ColumnConstraint::Absolute(Width::Fixed(content.saturating_add(GAP))));
        }
    }
}

/// Returns labelled values, one a line, with the values aligned.
pub fn facts(pairs: &[(&str, String)]) -> String {
    let widest = pairs.iter().map(|(label, _)| label.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (label, value) in pairs {
        text.push_str(&format!("{label:widest$}  {}\n", printable(value)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Table {
        let mut table = Table::new([
            Column::Fixed("NAME"),
            Column::Fixed("STATE"),
            Column::Wrapping("DIRECTORY"),
            Column::Number("FREE"),
        ]);
        table.row([
            Cell::new("bert"),
            Cell::toned("mounted", Tone::Good),
            Cell::new("/home/alice/workspace/a-rather-long-project-name/that-goes-on-and-on/and-on"),
            Cell::new("79.1 GiB"),
        ]);
        table
    }

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn at_80_columns_only_the_path_wraps() {
        let text = plain(&sample().render(Some(80)));
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(text.contains("bert  mounted"), "{text}");
        assert!(text.contains("79.1 GiB"), "{text}");
        assert_eq!(text.lines().count(), 3, "{text}");
    }

    #[test]
    fn a_wide_terminal_and_a_pipe_show_one_line_a_row() {
        for width in [Some(200), None] {
            let text = plain(&sample().render(width));
            assert_eq!(text.lines().count(), 2, "{text}");
            assert!(text.contains("that-goes-on-and-on/and-on"), "{text}");
        }
    }

    #[test]
    fn a_terminal_too_narrow_for_the_fixed_columns_wraps_them_too() {
        let text = plain(&sample().render(Some(30)));
        assert!(text.lines().all(|line| line.chars().count() <= 30), "{text}");
    }

    #[test]
    fn numbers_are_aligned_to_the_right_and_lines_have_no_trailing_blanks() {
        let mut table = Table::new([Column::Number("OPEN"), Column::Fixed("X")]);
        table.row([Cell::new("7"), Cell::new("y")]);
        assert_eq!(plain(&table.render(None)), "OPEN  X\n   7  y\n");
    }

    #[test]
    fn a_name_cannot_steer_the_terminal() {
        let mut table = Table::new([Column::Fixed("NAME")]);
        table.row([Cell::new("\u{1b}]0;x\u{7}")]);
        assert!(table.render(None).contains("\\u{1b}]0;x\\u{7}"));
    }

    #[test]
    fn facts_align_their_values() {
        let text = facts(&[("kernel", "6.18".into()), ("state directory", "/x\n".into())]);
        assert_eq!(text, "kernel           6.18\nstate directory  /x\\n\n");
    }
}
