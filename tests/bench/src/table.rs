//! Tables, as text and as Markdown.

use std::fmt::Write as _;

use comfy_table::presets::{ASCII_MARKDOWN, UTF8_FULL_CONDENSED};

/// What one experiment has found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    pub(crate) title: &'static str,
    /// What was done, in a sentence or two.
    pub(crate) how: String,
    pub(crate) head: Vec<&'static str>,
    pub(crate) rows: Vec<Vec<String>>,
    /// Below the table, a line each.
    pub(crate) notes: Vec<String>,
}

impl Table {
    pub(crate) fn text(&self) -> String {
        let mut text = format!("{}\n  {}\n", self.title, self.how);
        let _ = writeln!(text, "{}", self.body(UTF8_FULL_CONDENSED));
        for note in &self.notes {
            let _ = writeln!(text, "  {note}");
        }
        text
    }

    pub(crate) fn markdown(&self) -> String {
        let mut text = format!("## {}\n\n{}\n\n{}\n", self.title, self.how, self.body(ASCII_MARKDOWN));
        if !self.notes.is_empty() {
            text.push('\n');
        }
        for note in &self.notes {
            let _ = writeln!(text, "- {note}");
        }
        text
    }

    fn body(&self, preset: &str) -> comfy_table::Table {
        let mut table = comfy_table::Table::new();
        table.load_preset(preset).set_header(&self.head).add_rows(&self.rows);
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_in_markdown_stands_between_its_sentence_and_its_notes() {
        let table = Table {
            title: "Title",
            how: "How.".to_owned(),
            head: vec!["a", "b"],
            rows: vec![vec!["1".to_owned(), "2".to_owned()]],
            notes: vec!["Note.".to_owned()],
        };
        assert_eq!(table.markdown(), "## Title\n\nHow.\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n- Note.\n");
    }
}
