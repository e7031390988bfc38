//! The layout of a classic tracepoint's record, as tracefs describes it. Pure: the text is an argument.

use std::collections::BTreeMap;

/// Why a format file could not be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// A `field:` line lacks one of its parts.
    #[error("line {line} of the tracepoint format is not understood: {text:?}")]
    Line {
        /// Line number, from 1.
        line: usize,
        /// The line.
        text: String,
    },
    /// No field is described at all.
    #[error("the tracepoint format describes no field")]
    Empty,
}

/// One field of the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FormatField {
    /// Offset from the record's start, in bytes.
    offset_bytes: u32,
    /// Width in bytes.
    size_bytes: u32,
}

/// The fields of a classic tracepoint's record (`/sys/kernel/tracing/events/SUBSYSTEM/NAME/format`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TracepointFormat {
    fields: BTreeMap<String, FormatField>,
}

impl TracepointFormat {
    /// Reads a format file's text (`f_show` in `kernel/trace/trace_events.c`).
    ///
    /// # Errors
    ///
    /// When a field line is not understood or there is none.
    pub fn parse(text: &str) -> Result<Self, FormatError> {
        let mut fields = BTreeMap::new();
        for (index, line) in text.lines().enumerate() {
            let Some(description) = line.trim().strip_prefix("field:") else { continue };
            let (name, field) = parse_field(description)
                .ok_or_else(|| FormatError::Line { line: index + 1, text: line.trim().to_owned() })?;
            fields.insert(name, field);
        }
        if fields.is_empty() { Err(FormatError::Empty) } else { Ok(Self { fields }) }
    }

    /// The offset of the named field when it is `size_bytes` wide.
    pub fn offset_of(&self, name: &str, size_bytes: u32) -> Option<u32> {
        self.fields.get(name).filter(|field| field.size_bytes == size_bytes).map(|field| field.offset_bytes)
    }
}

/// Parses what follows `field:`: declaration, `offset:`, `size:` and `signed:`, each ended by a semicolon.
fn parse_field(description: &str) -> Option<(String, FormatField)> {
    let mut parts = description.split(';').map(str::trim);
    let declaration = parts.next()?;
    let declarator = declaration.split_whitespace().next_back()?;
    let name = declarator.trim_start_matches('*').split('[').next()?;
    let mut value = |key: &str| parts.next()?.strip_prefix(key)?.parse().ok();
    let field = FormatField { offset_bytes: value("offset:")?, size_bytes: value("size:")? };
    if name.is_empty() { None } else { Some((name.to_owned(), field)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = "name: inet_sock_set_state\nID: 1462\nformat:\n\
        \tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\n\
        \tfield:const void * skaddr;\toffset:8;\tsize:8;\tsigned:0;\n\
        \tfield:int oldstate;\toffset:16;\tsize:4;\tsigned:1;\n\
        \tfield:__u8 saddr[4];\toffset:32;\tsize:4;\tsigned:0;\n\nprint fmt: \"x\"\n";

    #[test]
    fn fields_are_found_by_name_and_width() {
        let format = TracepointFormat::parse(SAMPLE).unwrap();
        assert_eq!(format.offset_of("skaddr", 8), Some(8));
        assert_eq!(format.offset_of("oldstate", 4), Some(16));
        assert_eq!(format.offset_of("saddr", 4), Some(32));
        assert_eq!(format.offset_of("oldstate", 2), None);
        assert_eq!(format.offset_of("newstate", 4), None);
    }

    #[test]
    fn what_is_not_understood_is_named() {
        assert_eq!(TracepointFormat::parse(""), Err(FormatError::Empty));
        let error = TracepointFormat::parse("\tfield:int x;\toffset:q;").unwrap_err();
        assert_eq!(error, FormatError::Line { line: 1, text: "field:int x;\toffset:q;".to_owned() });
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text: String) {
            let _ = TracepointFormat::parse(&text);
            let _ = TracepointFormat::parse(&format!("\tfield:{text}"));
        }
    }
}
