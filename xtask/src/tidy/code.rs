//! Just enough of Rust's lexical structure to tell code from what is only written about code.

/// The text with comments and the contents of string and character literals replaced by spaces. Lines keep their numbers.
pub(super) fn without_comments_and_literals(text: &str) -> String {
    let mut rest = text;
    let mut previous = ' ';
    let mut code = String::with_capacity(text.len());
    while let Some(first) = rest.chars().next() {
        let length = literal_or_comment(rest, previous).unwrap_or(0);
        let (skipped, after) = rest.split_at_checked(length).unwrap_or((rest, ""));
        if skipped.is_empty() {
            code.push(first);
            previous = first;
            rest = rest.get(first.len_utf8()..).unwrap_or("");
        } else {
            code.extend(skipped.chars().map(|character| if character == '\n' { '\n' } else { ' ' }));
            previous = ' ';
            rest = after;
        }
    }
    code
}

/// How many bytes at the beginning of `text` are a comment or a literal, if it begins with one.
fn literal_or_comment(text: &str, previous: char) -> Option<usize> {
    let inside_word = previous.is_alphanumeric() || previous == '_';
    if text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    if text.starts_with("/*") {
        return Some(block_comment(text));
    }
    if text.starts_with('"') {
        return Some(1 + quoted(text.get(1..)?, '"'));
    }
    if text.starts_with('\'') {
        return character(text);
    }
    if inside_word {
        return None;
    }
    ["r", "br", "cr"].iter().find_map(|prefix| raw_string(text, prefix))
}

/// Block comments nest.
fn block_comment(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut position = 0;
    while let Some(rest) = text.get(position..) {
        let Some(character) = rest.chars().next() else { break };
        if rest.starts_with("/*") {
            depth += 1;
            position += 2;
        } else if rest.starts_with("*/") {
            depth = depth.saturating_sub(1);
            position += 2;
            if depth == 0 {
                return position;
            }
        } else {
            position += character.len_utf8();
        }
    }
    text.len()
}

/// Up to and with the closing quote; `text` begins after the opening one.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (position, character) in text.char_indices() {
        if escaped {
            escaped = false;
        } else if character == '\\' {
            escaped = true;
        } else if character == quote {
            return position + 1;
        }
    }
    text.len()
}

/// A character literal, not a lifetime: `'a'` or `'\…'`.
fn character(text: &str) -> Option<usize> {
    let inside = text.get(1..)?;
    let mut characters = inside.char_indices();
    let (_, first) = characters.next()?;
    if first == '\\' {
        return Some(1 + quoted(inside, '\''));
    }
    let (position, second) = characters.next()?;
    (second == '\'').then_some(1 + position + 1)
}

fn raw_string(text: &str, prefix: &str) -> Option<usize> {
    let after_prefix = text.strip_prefix(prefix)?;
    let hashes = after_prefix.len() - after_prefix.trim_start_matches('#').len();
    let inside = after_prefix.get(hashes..)?.strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let length = inside.find(&end).map_or(inside.len(), |position| position + end.len());
    Some(prefix.len() + hashes + 1 + length)
}

/// How many lines stand before the first `#[cfg(test)]` that is followed by a module.
pub(super) fn lines_before_tests(code: &str) -> usize {
    let lines: Vec<&str> = code.lines().collect();
    let begins_tests = |&(index, line): &(usize, &&str)| {
        line.trim().starts_with("#[cfg(test)]")
            && lines.iter().skip(index).find_map(|line| module_item(line)).unwrap_or(false)
    };
    lines.iter().enumerate().find(begins_tests).map_or(lines.len(), |(index, _)| index)
}

/// Whether the item on this line is a module with a body; `None` for a line of attributes or nothing.
fn module_item(line: &str) -> Option<bool> {
    let mut item = line.trim();
    while let Some(attribute) = item.strip_prefix("#[") {
        item = attribute.split_once(']').map_or("", |(_, after)| after.trim());
    }
    (!item.is_empty()).then(|| item.split_whitespace().any(|word| word == "mod") && item.ends_with('{'))
}

/// Whether `word` stands in `line` as a word of its own.
pub(super) fn has_word(line: &str, word: &str) -> bool {
    let part_of_word = |character: char| character.is_alphanumeric() || character == '_';
    line.match_indices(word).any(|(position, _)| {
        let before = line.get(..position).and_then(|text| text.chars().next_back());
        let after = line.get(position + word.len()..).and_then(|text| text.chars().next());
        !before.is_some_and(part_of_word) && !after.is_some_and(part_of_word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn becomes(text: &str, expected: &str) {
        let code = without_comments_and_literals(text);
        assert_eq!(code.split_whitespace().collect::<Vec<_>>().join(" "), expected);
        assert_eq!(code.lines().count(), text.lines().count());
    }

    #[test]
    fn comments_are_blanked() {
        becomes("let a = 1; // unsafe\nlet b;", "let a = 1; let b;");
        becomes("a /* x /* y\n */ unsafe */ b", "a b");
        becomes("/// tokio\nfn f() {}", "fn f() {}");
    }

    #[test]
    fn literals_are_blanked() {
        becomes(r#"f("unsafe \" // x", 'y', b'\'', "\\") + g"#, "f( , , b , ) + g");
        becomes("f(r#\"a \" unsafe\"#, r\"\\\", br##\"x\"##) + g", "f( , , ) + g");
    }

    #[test]
    fn lifetimes_and_names_stay() {
        becomes("fn f<'a>(x: &'a str, r: u8) -> &'static str", "fn f<'a>(x: &'a str, r: u8) -> &'static str");
        becomes("attr\"x\"", "attr");
    }

    #[test]
    fn tests_begin_at_their_module_and_not_at_another_test_only_item() {
        assert_eq!(lines_before_tests("a\n#[cfg(test)]\nuse x;\nb\n#[cfg(test)]\n#[expect(x)]\nmod tests {\n}"), 4);
        assert_eq!(lines_before_tests("a\n#[cfg(test)] mod tests {\n}"), 1);
        assert_eq!(lines_before_tests("a\n#[cfg(test)]\nmod tests;\nb"), 4);
        assert_eq!(lines_before_tests("a\nb"), 2);
    }

    #[test]
    fn a_word_is_not_found_inside_another() {
        assert!(has_word("x = unsafe {", "unsafe"));
        assert!(!has_word("unsafe_code", "unsafe"));
        assert!(!has_word("not_unsafe", "unsafe"));
    }
}
