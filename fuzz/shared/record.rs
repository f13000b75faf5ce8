//! Records of each codec: the first byte picks the codec, the next ones the flags and counts of the header, and what is
//! left is the payload of a batch built around it, whose checksum is right.

use alluvium::record::BatchView;

use super::batch::{check_validation, check_view, fix_header};
use super::input::Input;

pub(crate) fn run(data: &[u8]) {
    let batch = wrap(data);
    let view = BatchView::parse(&batch, u32::MAX).expect("the header is built right");
    view.verify_crc().expect("and so is the checksum");
    check_view(&view);
    check_validation(&batch);
}

/// A batch with a header that parses.
pub(crate) fn wrap(data: &[u8]) -> Vec<u8> {
    let mut input = Input::new(data);
    let codec = u16::from(input.below(5));
    let flags = input.u8();
    let count = i32::from(input.u16());
    let holes = i32::from(input.u8());
    let mut batch = Vec::with_capacity(61 + data.len());
    batch.extend_from_slice(&[0; 16]);
    batch.extend_from_slice(&[2, 0, 0, 0, 0]);
    // Time of append, transactional, control, delete horizon: bits 3 to 6.
    let attributes = codec | u16::from(flags & 0b1111) << 3;
    batch.extend_from_slice(&attributes.to_be_bytes());
    batch.extend_from_slice(&(count - 1 + holes).max(0).to_be_bytes());
    batch.extend_from_slice(&1000_i64.to_be_bytes());
    let max_timestamp = 1000 + i64::from(flags >> 6);
    batch.extend_from_slice(&max_timestamp.to_be_bytes());
    let (producer, epoch, sequence) = if flags & 0b11_0000 == 0 { (-1_i64, -1_i16, -1_i32) } else { (5, 0, 7) };
    batch.extend_from_slice(&producer.to_be_bytes());
    batch.extend_from_slice(&epoch.to_be_bytes());
    batch.extend_from_slice(&sequence.to_be_bytes());
    batch.extend_from_slice(&count.to_be_bytes());
    batch.extend_from_slice(input.rest());
    assert!(fix_header(&mut batch));
    batch
}

/// The input that gives a batch with the same codec, counts and payload as `batch`, for seeds.
pub(crate) fn unwrap(batch: &BatchView<'_>) -> Vec<u8> {
    let header = batch.header();
    let bits = header.attributes.bits();
    let [codec, flags] = [bits & 7, bits >> 3 & 0b1111].map(|bits| bits.to_be_bytes()[1]);
    let producer = if header.producer_id.is_some() { 0b1_0000 } else { 0 };
    let count = u16::try_from(header.count).unwrap_or(u16::MAX);
    let holes = (header.last_offset_delta.value() + 1).saturating_sub(i32::from(count)).min(255).max(0);
    let mut input = vec![codec, flags | producer];
    input.extend_from_slice(&count.to_be_bytes());
    input.push(holes.to_be_bytes()[3]);
    input.extend_from_slice(&batch.bytes()[61..]);
    input
}
