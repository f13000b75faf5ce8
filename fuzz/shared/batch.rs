//! Any bytes, taken for record batches: `Ok` or an error, and what is `Ok` keeps its word. Then the same bytes with a
//! header that fits them, so that what lies behind the checksum is reached too.

use alluvium::error::{InvalidBatch, InvalidRecord};
use alluvium::record::{
    BatchView, Compression, ControlRecord, HEADER_BYTES, Origin, Rules, batches, crc32c, stamp, stamp_append_time,
    validate,
};
use alluvium::{LeaderEpoch, Offset, TimestampMs};

const LIMIT: u32 = 1 << 20;
const ORIGINS: [Origin; 3] = [Origin::Client, Origin::Coordinator, Origin::Follower];

pub(crate) fn run(data: &[u8]) {
    check_all(data);
    let mut fixed = data.to_vec();
    if fix_header(&mut fixed) {
        check_all(&fixed);
    }
}

fn check_all(bytes: &[u8]) {
    let mut found = 0;
    for batch in batches(bytes, u32::MAX) {
        match batch {
            Ok(view) => {
                found += view.bytes().len();
                check_view(&view);
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    assert!(found <= bytes.len());
    // A bound on the size is a bound on the size.
    if let Ok(view) = BatchView::parse(bytes, 100) {
        assert!(view.bytes().len() <= 100);
    }
    check_validation(bytes);
}

/// Makes one whole batch of `bytes`, in so far as length, magic and checksum go.
pub(crate) fn fix_header(bytes: &mut [u8]) -> bool {
    let Some(length) = bytes.len().checked_sub(12).and_then(|length| i32::try_from(length).ok()) else { return false };
    if bytes.len() < HEADER_BYTES {
        return false;
    }
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    bytes[16] = 2;
    let crc = crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    true
}

/// Everything there is to read of a batch holds together.
pub(crate) fn check_view(view: &BatchView<'_>) {
    let header = view.header();
    assert_eq!(header.size as usize, view.bytes().len());
    assert!(header.base_offset <= header.last_offset() && header.last_offset() < header.next_offset());
    assert!(u64::from(header.count) <= header.last_offset().distance_from(header.base_offset) + 1);
    let _ = (view.verify_crc(), header.last_sequence(), header.delete_horizon());
    let Ok(body) = view.body(LIMIT) else { return };
    if header.attributes.compression() != Compression::None {
        assert!(body.bytes().len() <= LIMIT as usize, "more than the limit was decompressed");
    }
    let mut next = header.base_offset;
    let (mut count, mut failed) = (0, false);
    for record in body.records() {
        assert!(!failed, "records go on after an error");
        let Ok(record) = record else {
            failed = true;
            continue;
        };
        assert!(record.offset >= next && record.offset <= header.last_offset());
        next = record.offset.next().expect("the last offset of a batch has a successor");
        assert_eq!(record.headers().count(), record.headers().len());
        let _ = ControlRecord::parse(record.key, record.value);
        count += 1;
    }
    assert!(count <= header.count && (failed || count == header.count));
}

fn rules(origin: Origin) -> Rules {
    Rules { origin, batch_bytes_max: None, decompressed_bytes_max: LIMIT, keys_required: false, timestamps: None }
}

/// What is valid reads back without an error, and for whoever is stricter it is valid for whoever is less so.
pub(crate) fn check_validation(bytes: &[u8]) {
    let outcomes = ORIGINS.map(|origin| validate(bytes, &rules(origin)));
    let [client, coordinator, follower] = &outcomes;
    if client.is_ok() {
        assert!(coordinator.is_ok(), "a coordinator may do what a client may: {coordinator:?}");
    }
    if coordinator.is_ok() {
        assert!(follower.is_ok(), "what the leader took the follower takes: {follower:?}");
        let read = read_whole(bytes).expect("what was validated can be read");
        assert_eq!(read, coordinator.as_ref().map(|header| header.count).unwrap_or_default());
    }
    if let Ok(header) = follower {
        check_follower(bytes, header.attributes.compression());
        check_stamps(&bytes[..header.size as usize]);
    }
    // The other way round: whatever reads as records is fit to be copied.
    if let Ok(view) = BatchView::parse(bytes, u32::MAX)
        && view.verify_crc().is_ok()
        && view.header().attributes.compression() == Compression::None
        && read_whole(bytes).is_ok()
    {
        assert!(follower.is_ok(), "readable and refused: {follower:?}");
    }
}

fn check_follower(bytes: &[u8], compression: Compression) {
    if compression != Compression::None {
        return;
    }
    match read_whole(bytes) {
        // Followers do not look at header keys, as the leader did.
        Ok(_) | Err(InvalidBatch::Record { fault: InvalidRecord::HeaderKey, .. }) => {}
        Err(error) => panic!("copied and not readable: {error}"),
    }
}

/// Number of records, each of them read.
fn read_whole(bytes: &[u8]) -> Result<u32, InvalidBatch> {
    let view = BatchView::parse(bytes, u32::MAX)?;
    view.verify_crc()?;
    let body = view.body(LIMIT)?;
    let mut count = 0;
    for record in body.records() {
        record?;
        count += 1;
    }
    Ok(count)
}

/// Stamping keeps a batch valid, whatever it stamps.
fn check_stamps(batch: &[u8]) {
    let mut stamped = batch.to_vec();
    let offset = Offset::new(1 << 40).expect("not negative");
    stamp(&mut stamped, offset, LeaderEpoch::new(7));
    let view = BatchView::parse(&stamped, u32::MAX).expect("a stamped batch parses");
    view.verify_crc().expect("offset and epoch lie outside the checksum");
    assert_eq!((view.header().base_offset, view.header().leader_epoch), (offset, LeaderEpoch::new(7)));
    stamp_append_time(&mut stamped, TimestampMs::new(99));
    let view = BatchView::parse(&stamped, u32::MAX).expect("a stamped batch parses");
    view.verify_crc().expect("the checksum is taken anew");
    assert_eq!(view.header().max_timestamp, TimestampMs::new(99));
}
