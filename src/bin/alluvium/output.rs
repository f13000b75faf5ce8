//! What the subcommands share in printing: tables, numbers, bytes.

use std::fmt::{self, Write as _};
use std::time::Duration;

use serde_json::{Map, Value};

/// Rows of text in aligned columns. The first column is flush left, the others flush right.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(header: &[&str]) -> Self {
        Self { rows: vec![header.iter().map(|&cell| cell.to_owned()).collect()] }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let width_of = |at: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(at));
            cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
        };
        let widths: Vec<usize> = (0..columns).map(width_of).collect();
        for row in &self.rows {
            let mut line = String::new();
            for (at, (cell, width)) in row.iter().zip(&widths).enumerate() {
                if at == 0 {
                    write!(line, "  {cell:<width$}")?;
                } else {
                    write!(line, "  {cell:>width$}")?;
                }
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// A duration with the unit that suits it.
pub(crate) fn time(duration: Duration) -> String {
    let micros = duration.as_secs_f64() * 1e6;
    if micros < 1000.0 {
        format!("{micros:.1} us")
    } else if micros < 1e6 {
        format!("{:.2} ms", micros / 1e3)
    } else {
        format!("{:.2} s", micros / 1e6)
    }
}

/// A number of bytes with the unit that suits it.
pub(crate) fn bytes(count: u64) -> String {
    match count {
        0..10_000 => format!("{count} B"),
        10_000..10_000_000 => format!("{:.1} KB", real(count) / 1e3),
        _ => format!("{:.1} MB", real(count) / 1e6),
    }
}

/// `count` a second.
pub(crate) fn rate(count: u64, duration: Duration) -> f64 {
    real(count) / duration.as_secs_f64().max(1e-9)
}

/// A number in groups of three digits.
pub(crate) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[expect(clippy::cast_precision_loss, reason = "for people to read: 53 bits are plenty")]
pub(crate) fn real(count: u64) -> f64 {
    count as f64
}

/// Lower-case hex digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut out, byte| {
        // Writing to a string cannot fail.
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// Puts bytes into a JSON object: as text if they are text, otherwise as `<name>_hex`, and null as null.
pub(crate) fn put_bytes(object: &mut Map<String, Value>, name: &str, bytes: Option<&[u8]>) {
    match bytes.map(str::from_utf8) {
        None => object.insert(name.to_owned(), Value::Null),
        Some(Ok(text)) => object.insert(name.to_owned(), text.into()),
        Some(Err(_)) => object.insert(format!("{name}_hex"), hex(bytes.unwrap_or_default()).into()),
    };
}

/// Bytes for people: control characters escaped, what is not text in hex, and no more than fits a line.
pub(crate) fn readable(bytes: Option<&[u8]>, chars_max: usize) -> String {
    let Some(bytes) = bytes else { return "null".to_owned() };
    let text = match str::from_utf8(bytes) {
        Ok(text) => text.escape_debug().take(chars_max + 1).collect::<String>(),
        Err(_) => format!("0x{}", hex(bytes.get(..chars_max).unwrap_or(bytes))),
    };
    if text.chars().count() <= chars_max {
        return text;
    }
    let cut: String = text.chars().take(chars_max).collect();
    format!("{cut}... ({} bytes)", bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(grouped(999), "999");
        assert_eq!(bytes(9_999), "9999 B");
        assert_eq!(bytes(123_456), "123.5 KB");
        assert_eq!(time(Duration::from_micros(1500)), "1.50 ms");
    }

    #[test]
    fn bytes_are_readable_whatever_they_are() {
        assert_eq!(readable(None, 10), "null");
        assert_eq!(readable(Some(b"a\tb"), 10), "a\\tb");
        assert_eq!(readable(Some(&[0xff, 1]), 10), "0xff01");
        assert_eq!(readable(Some(b"abcdefgh"), 3), "abc... (8 bytes)");
    }
}
