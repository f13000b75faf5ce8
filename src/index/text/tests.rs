//! What is refused, and why; and any damage.

use fastrand::Rng;

use super::*;
use crate::index::LeaderEpochs;

fn at(value: i64) -> Offset {
    Offset::new(value).unwrap()
}

fn entry(topic: &str, partition: i32, offset: i64) -> (String, i32, Offset) {
    (topic.to_owned(), partition, at(offset))
}

fn fault(bytes: impl AsRef<[u8]>) -> TextFault {
    decode_offsets(bytes.as_ref()).unwrap_err()
}

#[test]
fn entries_are_written_by_topic_and_partition() {
    let entries = [entry("users", 0, 7), entry("orders", 10, i64::MAX), entry("orders", 2, 0)];
    let bytes = encode_offsets(&entries);
    assert_eq!(bytes, b"0\n3\norders 2 0\norders 10 9223372036854775807\nusers 0 7\n");
    let [users, tenth, second] = entries;
    assert_eq!(decode_offsets(&bytes), Ok(vec![second, tenth, users]));
    assert_eq!(encode_offsets(&[]), b"0\n0\n");
}

#[test]
fn an_empty_file_has_no_entries() {
    assert_eq!(decode_offsets(b""), Ok(Vec::new()));
    assert_eq!(decode_offsets(b"0\n0\n"), Ok(Vec::new()));
    assert_eq!(decode_offsets(b"0\n0"), Ok(Vec::new()));
}

#[test]
fn lines_and_fields_are_parted_as_kafkas_reader_does() {
    let expected = Ok(vec![entry("orders", 1, 2), entry("users", 3, 4)]);
    for text in [
        "0\n2\norders 1 2\nusers 3 4\n",
        "0\n2\norders 1 2\nusers 3 4",
        "0\r\n2\r\norders 1 2\r\nusers 3 4\r\n",
        "0\r2\rorders 1 2\rusers 3 4\r",
        "0\n2\norders\t1 \x0b\x0c 2\nusers   3 4  \n",
        "0\n+2\norders +1 02\nusers 3 4\n",
    ] {
        assert_eq!(decode_offsets(text.as_bytes()), expected, "{text:?}");
    }
}

#[test]
fn the_heading_is_checked() {
    let number = |line, field| TextFault::Number { line, field };
    for text in ["x\n0\n", "\n0\n", " 0\n0\n", "0 \n0\n", "99999999999999999999\n0\n", "0x0\n0\n", "\u{feff}0\n0\n"] {
        assert_eq!(fault(text), number(1, "version"), "{text:?}");
    }
    assert_eq!(fault("1\n0\n"), TextFault::Version { found: 1 });
    assert_eq!(fault("-1\n0\n"), TextFault::Version { found: -1 });
    for text in ["0", "0\n", "0\r\n"] {
        assert_eq!(fault(text), TextFault::Ends { line: 2, field: "number of entries" }, "{text:?}");
    }
    assert_eq!(fault("0\n\n"), number(2, "number of entries"));
    assert_eq!(fault("0\none\na 0 0\n"), number(2, "number of entries"));
}

#[test]
fn the_count_is_neither_believed_nor_ignored() {
    let count = |declared, found| TextFault::Count { declared, found };
    assert_eq!(fault("0\n2\na 0 0\n"), count(2, 1));
    assert_eq!(fault("0\n0\na 0 0\n"), count(0, 1));
    assert_eq!(fault("0\n-1\n"), count(-1, 0));
    assert_eq!(fault("0\n9223372036854775807\na 0 0\n"), count(i64::MAX, 1));
}

#[test]
fn entries_are_checked_field_by_field() {
    let fields = |found| TextFault::Fields { line: 3, found, expected: 3 };
    assert_eq!(fault("0\n1\n\n"), fields(0));
    assert_eq!(fault("0\n1\norders 0\n"), fields(2));
    assert_eq!(fault("0\n1\norders 0 0 0\n"), fields(4));
    assert_eq!(fault("0\n1\n orders 0 0\n"), fields(4));
    assert_eq!(fault("0\n1\n 0 0\n"), TextFault::Empty { line: 3, field: "topic" });
    assert_eq!(fault("0\n1\norders zero 0\n"), TextFault::Number { line: 3, field: "partition" });
    assert_eq!(fault("0\n1\norders 0 9223372036854775808\n"), TextFault::Number { line: 3, field: "offset" });
    let partition = |value| TextFault::Range { line: 3, field: "partition", value, max: i64::from(i32::MAX) };
    assert_eq!(fault("0\n1\norders -1 0\n"), partition(-1));
    assert_eq!(fault("0\n1\norders 2147483648 0\n"), partition(2_147_483_648));
    let offset = TextFault::Range { line: 3, field: "offset", value: -1, max: i64::MAX };
    assert_eq!(fault("0\n1\norders 0 -1\n"), offset);
    assert_eq!(fault("0\n2\norders 0 1\norders 0 1\n"), TextFault::Duplicate { line: 4 });
    assert_eq!(fault(b"0\n1\n\xff 0 0\n"), TextFault::Utf8 { line: 3 });
}

#[test]
fn a_file_past_the_bound_is_not_read() {
    let bytes = vec![b' '; BYTES_MAX + 1];
    assert_eq!(fault(&bytes), TextFault::Size { bytes: bytes.len() as u64, max: 64 << 20 });
    assert_eq!(fault(&bytes[1..]), TextFault::Number { line: 1, field: "version" });
}

#[test]
fn a_fault_says_where_it_is() {
    assert_eq!(
        fault("0\n1\norders 0 -1\n").to_string(),
        "line 3: offset is -1, which is outside 0..=9223372036854775807"
    );
    assert_eq!(fault("0\n").to_string(), "it ends before line 2, the number of entries");
}

#[test]
#[should_panic(expected = "no name of a topic")]
fn a_topic_that_could_not_be_read_again_is_not_written() {
    encode_offsets(&[entry("two words", 0, 0)]);
}

/// Java's readers part fields at ASCII white space alone, so that any other belongs to the topic.
#[test]
fn whatever_is_read_can_be_written_again() {
    let text = "0\n1\na\u{a0}b\u{85}c\u{2028} 0 7\n";
    let read = decode_offsets(text.as_bytes()).unwrap();
    assert_eq!(read, [entry("a\u{a0}b\u{85}c\u{2028}", 0, 7)]);
    assert_eq!(encode_offsets(&read), text.as_bytes());
}

/// Bytes that are right, with a few of them changed, cut or doubled.
fn damaged(rng: &mut Rng, right: &[u8]) -> Vec<u8> {
    let mut bytes = right.to_vec();
    for _ in 0..rng.usize(1..4) {
        let place = rng.usize(0..=bytes.len());
        match rng.u8(0..4) {
            0 if place < bytes.len() => bytes[place] ^= 1 << rng.u8(0..8),
            1 => bytes.truncate(place),
            2 => bytes.insert(place, *rng.choice(b"0129 -+\n\r\t\xff").unwrap()),
            _ => bytes.extend_from_within(place..),
        }
    }
    bytes
}

#[test]
fn any_damage_is_an_answer_or_an_error() {
    let seeds = std::env::var("ALLUVIUM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(2000_u64);
    let mut taken = 0;
    for seed in 0..seeds {
        let mut rng = Rng::with_seed(seed);
        let count = rng.i32(0..6);
        let entries: Vec<_> =
            (0..count).map(|n| entry(["orders", "users"][usize::from(rng.bool())], n, rng.i64(0..))).collect();
        let bytes = damaged(&mut rng, &encode_offsets(&entries));
        if let Ok(read) = decode_offsets(&bytes) {
            assert_eq!(decode_offsets(&encode_offsets(&read)), Ok(read), "seed {seed}");
            taken += 1;
        }
        let epochs = [b"0\n3\n0 0\n4 19\n17 4000\n".as_slice(), b"0\n1\n2 0\n", b""][rng.usize(0..3)];
        if let Ok(read) = LeaderEpochs::decode(&damaged(&mut rng, epochs)) {
            assert_eq!(LeaderEpochs::decode(&read.encode()), Ok(read), "seed {seed}");
            taken += 1;
        }
    }
    assert!(taken > 0, "some damage goes unnoticed: a digit for a digit");
}
