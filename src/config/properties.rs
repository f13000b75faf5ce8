//! The syntax of Java's `.properties` files, as `java.util.Properties.load(Reader)` reads it.
//!
//! ```text
//! # comment          ! comment           only where a line begins; never in a continuation
//! key=value          key : value         key value          key                (an empty value)
//! key = first,\
//!       second                           an odd number of backslashes goes on in the next line, less its indentation
//! \t \n \r \f \uHHHH                     escapes, in keys too; \ before any other character is dropped
//! ```
//! White space is space, tab and form feed; lines end with `\n`, `\r` or both. Blanks after a value belong to it.
//! One thing differs: half a surrogate pair is refused, since no UTF-8 text can hold it.

use std::iter::Peekable;
use std::str::Chars;

use crate::error::ConfigError;

/// One key with its value, unescaped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Property {
    pub(crate) key: String,
    pub(crate) value: String,
    /// The natural line that it starts in, from 1.
    pub(crate) line: usize,
}

/// The properties of a text, in its order, repeated keys included.
pub(crate) fn parse(text: &str) -> Result<Vec<Property>, ConfigError> {
    let mut lines = NaturalLines { rest: text, number: 0 };
    let mut found = Vec::new();
    while let Some((line, start)) = lines.next() {
        if start.starts_with(['#', '!']) {
            continue;
        }
        let mut logical = String::new();
        let mut part = start;
        while let Some(kept) = goes_on(part) {
            logical.push_str(kept);
            // At the end of the text there is no next line, and the backslash is dropped all the same.
            part = lines.next().map_or("", |(_, next)| next);
        }
        logical.push_str(part);
        if !logical.is_empty() {
            found.push(property(&logical, line).ok_or(ConfigError::MalformedEscape { line })?);
        }
    }
    Ok(found)
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\x0c')
}

/// What a line holds before the backslash at its end, if the next line belongs to it.
fn goes_on(line: &str) -> Option<&str> {
    let kept = line.strip_suffix('\\')?;
    let before = kept.len() - kept.trim_end_matches('\\').len();
    before.is_multiple_of(2).then_some(kept)
}

/// Lines as they stand, numbered from 1, without indentation and line end.
struct NaturalLines<'a> {
    rest: &'a str,
    number: usize,
}

impl<'a> Iterator for NaturalLines<'a> {
    type Item = (usize, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let (line, rest) = self.rest.split_once(['\n', '\r']).unwrap_or((self.rest, ""));
        let ended_by_return = self.rest.as_bytes().get(line.len()) == Some(&b'\r');
        self.rest = if ended_by_return { rest.strip_prefix('\n').unwrap_or(rest) } else { rest };
        self.number += 1;
        Some((self.number, line.trim_start_matches(is_blank)))
    }
}

/// Splits and unescapes a logical line; `None` when an escape is malformed.
fn property(logical: &str, line: usize) -> Option<Property> {
    let end = key_end(logical);
    let (key, rest) = logical.split_at_checked(end)?;
    let rest = rest.trim_start_matches(is_blank);
    let value = rest.strip_prefix(['=', ':']).unwrap_or(rest).trim_start_matches(is_blank);
    Some(Property { key: unescaped(key)?, value: unescaped(value)?, line })
}

/// Where the first unescaped separator stands.
fn key_end(logical: &str) -> usize {
    let mut is_escaped = false;
    for (at, c) in logical.char_indices() {
        if !is_escaped && (matches!(c, '=' | ':') || is_blank(c)) {
            return at;
        }
        is_escaped = c == '\\' && !is_escaped;
    }
    logical.len()
}

fn unescaped(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('t') => out.push('\t'),
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('f') => out.push('\x0c'),
            Some('u') => out.push(unicode(&mut chars)?),
            Some(other) => out.push(other),
            None => {}
        }
    }
    Some(out)
}

/// The character behind `\u`: Java escapes UTF-16, so one past the basic plane is a pair of escapes.
fn unicode(chars: &mut Peekable<Chars<'_>>) -> Option<char> {
    let unit = utf16_unit(chars)?;
    if !(0xd800..0xdc00).contains(&unit) {
        return char::from_u32(unit);
    }
    if chars.next() != Some('\\') || chars.next() != Some('u') {
        return None;
    }
    let low = utf16_unit(chars)?.checked_sub(0xdc00).filter(|low| *low < 0x400)?;
    char::from_u32(0x1_0000 + ((unit - 0xd800) << 10) + low)
}

fn utf16_unit(chars: &mut Peekable<Chars<'_>>) -> Option<u32> {
    (0..4).try_fold(0, |unit, _| Some(unit * 16 + chars.next()?.to_digit(16)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Vec<(String, String)> {
        parse(text).unwrap().into_iter().map(|property| (property.key, property.value)).collect()
    }

    fn pair(text: &str) -> (String, String) {
        let found = pairs(text);
        assert_eq!(found.len(), 1, "{found:?}");
        found[0].clone()
    }

    fn owned(key: &str, value: &str) -> (String, String) {
        (key.to_owned(), value.to_owned())
    }

    /// Each line with what Java makes of it.
    #[test]
    fn separators_comments_and_blanks_are_java_s() {
        for text in
            ["a=b", "a:b", "a b", " a  =  b", "\ta\t:\tb", "\x0ca\x0cb", "a\t b", "a = b\n", "\n \n\r\na=b\r\n\t\n"]
        {
            assert_eq!(pair(text), owned("a", "b"), "{text:?}");
        }
        for text in ["a", "a=", "a:", "a ", "a = ", "a\n"] {
            assert_eq!(pair(text), owned("a", ""), "{text:?}");
        }
        // Only the first separator separates, and what follows a value is part of it.
        assert_eq!(pair("a==b"), owned("a", "=b"));
        assert_eq!(pair("a = :b"), owned("a", ":b"));
        assert_eq!(pair("a=b c  "), owned("a", "b c  "));
        assert_eq!(pair("a=b # no comment"), owned("a", "b # no comment"));
        assert_eq!(pair("=b"), owned("", "b"));
        for text in ["", "\n", "  \t\n\r", "# a=b", "  ! a=b", "#\\\n", "#"] {
            assert_eq!(pairs(text), [], "{text:?}");
        }
        // A comment cannot be continued.
        assert_eq!(pairs("# a\\\nb=c"), [owned("b", "c")]);
    }

    #[test]
    fn lines_go_on_after_an_odd_number_of_backslashes() {
        assert_eq!(pair("a=b,\\\n    c,\\\r\n\td"), owned("a", "b,c,d"));
        assert_eq!(pairs("a=b\\\\\nc=d"), [owned("a", "b\\"), owned("c", "d")]);
        assert_eq!(pair("a=b\\\\\\\nc=d"), owned("a", "b\\c=d"));
        assert_eq!(pair("a=b\\\n# no comment"), owned("a", "b# no comment"));
        assert_eq!(pair("a\\\nb=c"), owned("ab", "c"));
        // A blank line ends what goes on, and a text may end with a backslash.
        assert_eq!(pairs("a=b\\\n\nc=d"), [owned("a", "b"), owned("c", "d")]);
        assert_eq!(pair("a=b\\"), owned("a", "b"));
        assert_eq!(pairs("\\\n\na=b\\\n"), [owned("a", "b")]);
        let numbers: Vec<usize> =
            parse("a=1\\\n\\\n2\n\rb=3\r\nc=4").unwrap().iter().map(|property| property.line).collect();
        assert_eq!(numbers, [1, 5, 6]);
    }

    #[test]
    fn escapes_hold_in_keys_and_values() {
        assert_eq!(pair(r"a\=b\:c\ d = \=e"), owned("a=b:c d", "=e"));
        assert_eq!(pair(r"k=\t\n\r\f\\\q\"), owned("k", "\t\n\r\x0c\\q"));
        assert_eq!(pair("k=a\\ \\\n  b"), owned("k", "a b"));
        assert_eq!(pair(r"\u0061=\u00e4\u20AC\uD83D\ude00x"), owned("a", "ä€😀x"));
        assert_eq!(pair(r"a\\=b"), owned("a\\", "b"));
        assert_eq!(pair(r"\#a=b"), owned("#a", "b"));
        for text in
            [r"k=\u12", r"k=\u12g4", r"k=\u+123", r"\u=", r"k=\ud800", r"k=\ud800\u0041", r"k=\udc00", r"k=\ud83dx"]
        {
            assert_eq!(parse(&format!("# one\n{text}\n")), Err(ConfigError::MalformedEscape { line: 2 }), "{text}");
        }
    }

    #[test]
    fn random_texts_never_panic_and_keep_their_lines() {
        let mut rng = fastrand::Rng::with_seed(10);
        let alphabet: Vec<char> = "ab=: \t\x0c\r\n\\\\\\#!u0dD8é😀".chars().collect();
        for _ in 0..20_000 {
            let text: String = (0..rng.usize(0..40)).map(|_| alphabet[rng.usize(..alphabet.len())]).collect();
            if let Ok(found) = parse(&text) {
                let lines: Vec<usize> = found.iter().map(|property| property.line).collect();
                assert!(lines.is_sorted(), "{text:?}: {lines:?}");
            }
        }
    }
}
