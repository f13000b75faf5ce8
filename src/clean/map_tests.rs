//! The offset map against a naive one, and what its shape promises.

use std::collections::HashMap;

use super::super::key_hash::KeyHasher;
use super::*;

fn offset(value: u64) -> Offset {
    Offset::new(i64::try_from(value).unwrap()).unwrap()
}

/// Buckets that a look-up of the key reads until it knows: 1 or 2.
fn lines_read(map: &OffsetMap, hash: KeyHash) -> u64 {
    let [first, second] = map.places(hash);
    let is_in_first = map.buckets[first].0.iter().any(|slot| slot.is_of(hash));
    if is_in_first || first == second { 1 } else { 2 }
}

#[test]
fn a_slot_is_sixteen_bytes_and_a_bucket_one_line() {
    assert_eq!((size_of::<Slot>(), size_of::<Bucket>(), align_of::<Bucket>()), (16, 64, 64));
    for bytes in [0, 63, 64, 1000, 1 << 20] {
        let map = OffsetMap::new(bytes, Offset::ZERO);
        assert!(map.memory_bytes() <= bytes && map.memory_bytes() + 64 > bytes, "{bytes}");
    }
}

/// Any number of puts, of few and of many keys, in maps of any size: as a `HashMap` that refuses new keys when this one
/// does.
#[test]
fn it_agrees_with_a_naive_map() {
    for seed in 0..200 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let base = rng.u64(0..1 << 40);
        let mut map = OffsetMap::new(rng.usize(64..20_000), offset(base));
        let mut model: HashMap<u64, Offset> = HashMap::new();
        let hasher = KeyHasher::from_seed(seed);
        let distinct = rng.u64(1..3000);
        for _ in 0..rng.usize(1..6000) {
            let (key, at) = (rng.u64(0..distinct), offset(base + rng.u64(0..1 << 32)));
            let put = map.put(hasher.hash(&key.to_be_bytes()), at);
            let in_reach = at.distance_from(offset(base)) < OffsetMap::reach();
            match (model.get(&key).copied(), put) {
                (Some(before), Put::Known(known)) => {
                    assert_eq!(before, known, "seed {seed}");
                    model.insert(key, before.max(at));
                }
                (None, Put::New) => assert_eq!(model.insert(key, at), None),
                (None, Put::Full) => assert!(!in_reach || map.len() * 100 >= map.keys_max() * 50, "seed {seed}"),
                (known, put) => assert!(!in_reach && put == Put::Full, "seed {seed}: {known:?} {put:?}"),
            }
            assert_eq!(map.len(), model.len());
        }
        for key in 0..distinct {
            assert_eq!(map.find(hasher.hash(&key.to_be_bytes())), model.get(&key).copied(), "seed {seed}");
        }
    }
}

/// Row 80: a full map goes on with the keys that it holds.
#[test]
fn a_full_map_still_updates_what_it_holds() {
    let hasher = KeyHasher::from_seed(3);
    let mut map = OffsetMap::new(1 << 16, Offset::ZERO);
    let mut key = 0_u64;
    while map.put(hasher.hash(&key.to_be_bytes()), offset(key)) == Put::New {
        key += 1;
    }
    assert_eq!(key, map.keys_max() as u64, "it is full when it says, not before");
    for known in 0..key {
        let hash = hasher.hash(&known.to_be_bytes());
        assert_eq!(map.put(hash, offset(known + 1_000_000)), Put::Known(offset(known)));
        assert_eq!(map.find(hash), Some(offset(known + 1_000_000)));
    }
    assert_eq!(map.put(hasher.hash(b"new"), offset(key)), Put::Full);
    assert_eq!(map.find(hasher.hash(b"new")), None);
}

/// At a load over 0.9 all keys are taken, and each is found in at most two lines.
#[test]
fn at_most_two_lines_are_read_at_any_load() {
    for (seed, bytes) in [(1, 1 << 16), (2, 1 << 20), (3, 4 << 20)] {
        let hasher = KeyHasher::from_seed(seed);
        let mut map = OffsetMap::new(bytes, Offset::ZERO);
        let keys = map.keys_max() as u64;
        assert!(keys * 100 >= (bytes as u64 / 16) * 94);
        for key in 0..keys {
            assert_eq!(map.put(hasher.hash(&key.to_be_bytes()), offset(key)), Put::New, "key {key} of {keys}");
        }
        let lines: u64 = (0..keys).map(|key| lines_read(&map, hasher.hash(&key.to_be_bytes()))).sum();
        assert!(lines >= keys && lines <= keys * 2, "{lines} lines for {keys} keys");
        for key in 0..keys {
            assert_eq!(map.find(hasher.hash(&key.to_be_bytes())), Some(offset(key)));
        }
    }
}

/// A map that is used again takes what it is told and has forgotten the rest.
#[test]
fn a_cleared_map_is_as_new() {
    let hasher = KeyHasher::from_seed(4);
    let mut map = OffsetMap::new(1 << 16, Offset::ZERO);
    for keys in [1_u64, 10, 100, 1000, 3000, 5] {
        map.clear(offset(keys), keys);
        assert!(map.is_empty() && map.keys_max() as u64 >= keys);
        for key in 0..keys {
            let hash = hasher.hash(&key.to_be_bytes());
            assert_eq!(map.find(hash), None);
            assert_eq!(map.put(hash, offset(keys + key)), Put::New, "key {key} of {keys}");
        }
    }
}

#[test]
fn offsets_out_of_reach_are_refused() {
    let hash = KeyHasher::from_seed(5).hash(b"k");
    let mut map = OffsetMap::new(1 << 10, offset(1000));
    assert_eq!(map.put(hash, offset(999)), Put::Full);
    assert_eq!(map.put(hash, offset(1000 + OffsetMap::reach())), Put::Full);
    assert_eq!(map.put(hash, offset(1000 + OffsetMap::reach() - 1)), Put::New);
    assert_eq!(map.find(hash), Some(offset(1000 + OffsetMap::reach() - 1)));
    let mut last = OffsetMap::new(1 << 10, Offset::MAX);
    assert_eq!((last.put(hash, Offset::MAX), last.find(hash)), (Put::New, Some(Offset::MAX)));
}

/// Keys that agree in all bits but one of the stored ones, or but those of the home, are told apart or taken for one as
/// the docs say: never by the home alone unless it leads to the same buckets.
#[test]
fn equal_stored_bits_are_one_key_and_others_are_not() {
    let mut map = OffsetMap::new(1 << 12, Offset::ZERO);
    for bit in 0..96_u32 {
        let (high, low) = if bit < 64 { (1_u64 << bit, 0) } else { (0, 1_u32 << (bit - 64)) };
        assert_eq!(map.put(KeyHash { high, low, home: 7 }, offset(u64::from(bit))), Put::New);
    }
    for bit in 0..64_u32 {
        assert_eq!(map.find(KeyHash { high: 1 << bit, low: 0, home: 7 }), Some(offset(u64::from(bit))));
    }
}
