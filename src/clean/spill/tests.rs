//! How memory is divided, and what a block's bytes are.

use std::path::Path;
use std::sync::Arc;

use super::chain::{Chain, ChainFile, Direction, HEADER_BYTES};
use super::*;
use crate::fs::sim::SimFs;

fn files(sim: &SimFs) -> SpillFiles {
    SpillFiles::new(Arc::new(sim.clone()), "/".into())
}

/// At every size the parts that exist at a time fit, and the map has the larger part of what there is while chains are
/// resolved.
#[test]
fn the_parts_fit_the_whole() {
    for bytes in [64 << 10, 100_000, 192 << 10, 896 << 10, 1 << 20, 3 << 20, 7 << 20, 63 << 20, 1 << 30] {
        let sizes = Sizes::of(bytes);
        assert!(sizes.chains.is_power_of_two() && sizes.chains >= 16);
        let pairs = sizes.chains * (sizes.pair_block + 128);
        assert!(pairs <= bytes, "{sizes:?}");
        let besides = pairs::Pairs::split_bytes(&sizes) + sizes.pair_block + sizes.table_bytes() + sizes.chains * 48;
        let windows = marks::WindowMarks::bytes_for(&sizes);
        assert!(besides + windows.max(sizes.bitmap_bytes_max()) <= bytes / 2, "{sizes:?} {besides} {windows}");
        assert!(sizes.window_bytes() + windows <= bytes / 2);
    }
}

/// Golden bytes of a block, field by field.
#[test]
fn a_block_is_as_its_diagram_says() {
    let sim = SimFs::new(1);
    let mut file = ChainFile::new(files(&sim).create().unwrap(), 64);
    let mut chain = file.begin(9);
    let mut block = [vec![0; HEADER_BYTES], b"abc".to_vec()].concat();
    file.append(&mut chain, 0x0102, 3, &mut block.clone()).unwrap();
    file.append(&mut chain, 0x0304, 1, &mut block).unwrap();
    let bytes = sim.live_bytes(Path::new("/alluvium.spill.0.tmp")).unwrap();
    let second = &bytes[64..];
    assert_eq!(&second[..4], b"aspl");
    assert_eq!(second[8..16], 0_u64.to_be_bytes());
    assert_eq!(second[16..24], 128_u64.to_be_bytes());
    assert_eq!(second[24..32], 0x0304_i64.to_be_bytes());
    assert_eq!(second[32..36], 1_u32.to_be_bytes());
    assert_eq!(second[36..40], 3_u32.to_be_bytes());
    assert_eq!(&second[40..], b"abc");
    let covered = [&64_u64.to_be_bytes()[..], &9_u32.to_be_bytes(), &second[8..]].concat();
    assert_eq!(second[4..8], crc32fast::hash(&covered).to_be_bytes());
}

/// Chains of one file are read from either end, and a block of another chain or place is not taken for one of theirs.
#[test]
fn chains_are_read_in_both_directions() {
    let sim = SimFs::new(1);
    let mut file = ChainFile::new(files(&sim).create().unwrap(), 64);
    let mut chains: Vec<Chain> = (0..3).map(|number| file.begin(number)).collect();
    for at in 0..20_i64 {
        let number = usize::try_from(at * at % 3).unwrap();
        file.append(&mut chains[number], at, 1, &mut [vec![0; HEADER_BYTES], vec![7]].concat()).unwrap();
    }
    let mut buffer = [0; 64];
    for (number, chain) in (0..).zip(&chains) {
        let expected: Vec<i64> = (0..20).filter(|at| at * at % 3 == number).collect();
        for direction in [Direction::Forward, Direction::Backward] {
            let (mut cursor, mut found) = (chain.cursor(direction), Vec::new());
            while let Some(payload) = file.read(&mut cursor, &mut buffer).unwrap() {
                found.push(payload.base);
            }
            if direction == Direction::Backward {
                found.reverse();
            }
            assert_eq!(found, expected);
        }
    }
    let mut other = chains[0];
    other.number = 1;
    assert!(file.read(&mut other.cursor(Direction::Forward), &mut buffer).is_err());
    let mut more = chains[0];
    more.records += 1;
    let mut cursor = more.cursor(Direction::Forward);
    let read_all = (0..100).find_map(|_| match file.read(&mut cursor, &mut buffer) {
        Ok(Some(_)) => None,
        end => Some(end.is_err()),
    });
    assert_eq!(read_all, Some(true), "a number of records that is not reached is an error");
}
