//! The paths that a piece of Rust names, with grouped imports written out.

/// Every path in the code with the line it begins on: `use a::{b, c::d};` names `a::b` and `a::c::d`.
pub(super) fn named(code: &str) -> Vec<(usize, Vec<String>)> {
    let mut reader = Reader { tokens: tokens(code), position: 0 };
    let mut found = Vec::new();
    while reader.position < reader.tokens.len() {
        if !reader.path(&[], &mut found) {
            reader.position += 1;
        }
    }
    found
}

#[derive(Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    /// `::`
    Step,
    Other(char),
}

struct Reader {
    tokens: Vec<(usize, Token)>,
    position: usize,
}

impl Reader {
    fn peek(&self) -> Option<&(usize, Token)> {
        self.tokens.get(self.position)
    }

    fn takes(&mut self, wanted: &Token) -> bool {
        let is_there = self.peek().is_some_and(|(_, token)| token == wanted);
        self.position += usize::from(is_there);
        is_there
    }

    /// Reads a path that continues `prefix`; false if none begins here.
    fn path(&mut self, prefix: &[String], found: &mut Vec<(usize, Vec<String>)>) -> bool {
        let Some((line, Token::Word(word))) = self.peek() else { return false };
        let line = *line;
        let mut path = prefix.to_vec();
        path.push(word.clone());
        self.position += 1;
        while self.takes(&Token::Step) {
            match self.peek() {
                Some((_, Token::Word(word))) => {
                    path.push(word.clone());
                    self.position += 1;
                }
                Some((_, Token::Other('{'))) => {
                    self.position += 1;
                    self.group(&path, found);
                    return true;
                }
                // A glob, or generic arguments, whose paths are read on their own.
                _ => break,
            }
        }
        found.push((line, path));
        true
    }

    fn group(&mut self, prefix: &[String], found: &mut Vec<(usize, Vec<String>)>) {
        while self.position < self.tokens.len() && !self.takes(&Token::Other('}')) {
            if !self.path(prefix, found) {
                self.position += 1;
            }
        }
    }
}

fn tokens(code: &str) -> Vec<(usize, Token)> {
    let mut tokens = Vec::new();
    for (line, text) in super::numbered(code) {
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let word_end = rest.find(|character: char| !character.is_alphanumeric() && character != '_');
            let word = rest.get(..word_end.unwrap_or(rest.len())).unwrap_or("");
            let length = if !word.is_empty() {
                tokens.push((line, Token::Word(word.to_owned())));
                word.len()
            } else if rest.starts_with("::") {
                tokens.push((line, Token::Step));
                2
            } else {
                if !first.is_whitespace() {
                    tokens.push((line, Token::Other(first)));
                }
                first.len_utf8()
            };
            rest = rest.get(length..).unwrap_or("");
        }
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(code: &str) -> Vec<String> {
        named(code).into_iter().map(|(line, path)| format!("{line} {}", path.join("::"))).collect()
    }

    #[test]
    fn a_grouped_import_is_written_out() {
        let found = names("use std::{\n    collections::{BTreeMap, HashMap},\n    fs::{self, File},\n    net::*,\n};");
        assert_eq!(
            found,
            [
                "1 use",
                "2 std::collections::BTreeMap",
                "2 std::collections::HashMap",
                "3 std::fs::self",
                "3 std::fs::File",
                "4 std::net"
            ]
        );
    }

    #[test]
    fn paths_in_expressions_and_generics_are_named() {
        assert_eq!(
            names("let x: Vec<aya::Ebpf> = std::fs::read(y)?;"),
            ["1 let", "1 x", "1 Vec", "1 aya::Ebpf", "1 std::fs::read", "1 y"]
        );
    }
}
