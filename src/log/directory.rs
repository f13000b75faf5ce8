//! Whose word counts for a partition: its own state files, or what stands in the data directory around it.
//!
//! Kafka may have had a data directory between two of our openings. It goes by files of its own, knows nothing of ours,
//! and cuts and appends as it likes; then our state in the partitions speaks of files that are gone. It shows in the data
//! directory: Kafka replaces its lists of recovery points and log starts, and takes away or replaces the marker of a clean
//! shutdown. Their contents are the directory's *print*. A store of ours writes the same files; it says beforehand, in
//! `alluvium.store`, which prints it is about to leave.
//!
//! From that follows the directory's *lineage*, a number that stays the same for as long as nobody but us was there:
//!
//! | `alluvium.store` | the print | lineage |
//! |---|---|---|
//! | D1: none | no file of Kafka's at all | 0 |
//! | D2: none | of Kafka's files | derived from the print |
//! | D3: says that it left this print | | the one that it names |
//! | D4: does not know this print | somebody else was there | derived from the print and the one that it names |
//!
//! A partition's state carries the lineage under which it was opened, alone or in a store, and is believed if, and only
//! if, that is the directory's still, and Kafka has not loaded the partition: lists that are written anew may say what
//! they said before. For that there is a canary in the partition's directory, a file whose name ends in `.deleted`. Kafka
//! removes such files when it loads a partition (`LogLoader`), before anything else. It is kept where there are files of
//! Kafka's or of a store; elsewhere the lists that Kafka makes give it away. A store that finds D2 or D4 writes that very lineage into `alluvium.store` before it
//! changes anything, so that partitions opened alone in between, by the same rule, go on being believed.
//!
//! ```text
//! alluvium.store   lineage u64, incarnation u64, closed cleanly u8, count u32, for each a print u64
//! ```
//! Big-endian, behind the header of a small checked file. One that cannot be read knows no print.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::hosted::Above;
use crate::error::{IoFailure, IoOperation, SmallFileFault};
use crate::fs::{self, EntryKind, FileSystem, OpenMode};
use crate::index::{SmallFile, SmallFileError, decode_offsets, read_small_file, replace_small_file};
use crate::segment::names;
use crate::units::Offset;

/// A longer list counts as unreadable. What is hashed of it is its length.
const LIST_BYTES_MAX: u64 = 64 << 20;
/// More prints than this are not remembered: each stands for a replacement of lists whose outcome is open.
const PRINTS_MAX: usize = 256;
const WITNESS: SmallFile = SmallFile { kind: 17, version: 1, in_place: false };
/// What our marker begins with while it is on its way out.
const VOID: &[u8] = b"void";

/// A number that changes when somebody else had the data directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lineage(u64);

impl Lineage {
    /// Of a directory that neither Kafka nor a store ever had; and of state from before lineages.
    pub(crate) const NONE: Self = Self(0);

    pub(crate) fn new(value: u64) -> Self {
        Self(value)
    }

    pub(crate) fn value(self) -> u64 {
        self.0
    }

    /// The lineage that begins when `print` is found where it was not expected.
    fn broken_by(self, print: DirectoryPrint) -> Self {
        if print == DirectoryPrint::NONE && self == Self::NONE {
            return Self::NONE;
        }
        Self(never_zero(mixed(mixed(self.0) ^ print.0)))
    }
}

/// What Kafka's files in a data directory say, as one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DirectoryPrint(u64);

impl DirectoryPrint {
    /// There is none of the files.
    pub(crate) const NONE: Self = Self(0);
}

/// The files whose contents make the print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// Kafka's list of recovery points.
    RecoveryPoints,
    /// Kafka's list of log starts.
    LogStarts,
    /// The marker of a clean shutdown.
    Marker,
}

/// A print by its parts; for each a number for the content, or nothing without a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PrintParts([Option<u64>; 3]);

impl PrintParts {
    /// With this content of one of the files.
    pub(crate) fn with(mut self, part: Part, content: Option<&[u8]>) -> Self {
        // A marker that is void says what no marker says, and stands only until it is removed.
        let content = content.filter(|content| part != Part::Marker || !content.starts_with(VOID));
        let slot = match part {
            Part::RecoveryPoints => 0,
            Part::LogStarts => 1,
            Part::Marker => 2,
        };
        if let Some(slot) = self.0.get_mut(slot) {
            *slot = content.map(content_number);
        }
        self
    }

    /// All parts as one.
    pub(crate) fn print(self) -> DirectoryPrint {
        if self == Self::default() {
            return DirectoryPrint::NONE;
        }
        let number = self.0.iter().fold(0x616c_6c75, |so_far, part| match part {
            None => mixed(so_far),
            Some(content) => mixed(so_far ^ content).wrapping_add(1),
        });
        DirectoryPrint(never_zero(number))
    }
}

/// FNV-1a, spread. Nobody picks contents so that two are taken for one.
fn content_number(content: &[u8]) -> u64 {
    let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    never_zero(mixed(content.iter().fold(0xcbf2_9ce4_8422_2325, fold) ^ content.len() as u64))
}

/// The finalizer of `SplitMix64`: every bit of the result depends on every bit of the input.
fn mixed(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

fn never_zero(value: u64) -> u64 {
    value.max(1)
}

/// What a store says of the data directory that it has, or had.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Witness {
    /// Under which its partitions are opened.
    pub(crate) lineage: Lineage,
    /// How often a store took the directory.
    pub(crate) incarnation: u64,
    /// Whether the last one closed it.
    pub(crate) is_closed: bool,
    /// The prints that it may have left, rising.
    pub(crate) prints: Vec<DirectoryPrint>,
}

impl Witness {
    /// Reads the file of `dir`. `Ok(None)` without one; one that fails its check is one that knows no print.
    pub(crate) fn read(fs: &dyn FileSystem, dir: &Path) -> Result<Option<Self>, IoFailure> {
        match read_small_file(fs, &dir.join(names::STORE_WITNESS), WITNESS) {
            Ok(None) => Ok(None),
            Ok(Some(payload)) => Ok(Some(Self::decode(&payload).unwrap_or_default())),
            Err(SmallFileError::Corrupt(_)) => Ok(Some(Self::default())),
            Err(SmallFileError::Io(failure)) => Err(failure),
        }
    }

    /// Replaces the file; durable when it returns. A full disk, whose store has to open for anything to be deleted, has room
    /// for it where it is: a crash in that one write leaves a file that knows no print, which costs a scan.
    pub(crate) fn write(&self, fs: &dyn FileSystem, dir: &Path) -> Result<(), IoFailure> {
        let bytes = self.encode();
        match replace_small_file(fs, dir, names::STORE_WITNESS, &bytes) {
            Err(failure) if failure.is_storage_full() => {
                overwrite(fs, &dir.join(names::STORE_WITNESS), &bytes).map_err(|_| failure)
            }
            replaced => replaced,
        }
    }

    fn encode(&self) -> Vec<u8> {
        // Of too many, the newest may be forgotten: then a print is not known, and more is scanned than need be.
        let prints = self.prints.get(..self.prints.len().min(PRINTS_MAX)).unwrap_or_default();
        let mut payload = Vec::with_capacity(21 + 8 * prints.len());
        payload.extend_from_slice(&self.lineage.0.to_be_bytes());
        payload.extend_from_slice(&self.incarnation.to_be_bytes());
        payload.push(u8::from(self.is_closed));
        payload.extend_from_slice(&u32::try_from(prints.len()).unwrap_or(u32::MAX).to_be_bytes());
        for print in prints {
            payload.extend_from_slice(&print.0.to_be_bytes());
        }
        WITNESS.encode(&payload)
    }

    fn decode(payload: &[u8]) -> Result<Self, SmallFileFault> {
        let (&lineage, rest) = payload.split_first_chunk::<8>().ok_or(SmallFileFault::Length)?;
        let (&incarnation, rest) = rest.split_first_chunk::<8>().ok_or(SmallFileFault::Length)?;
        let (&[is_closed], rest) = rest.split_first_chunk::<1>().ok_or(SmallFileFault::Length)?;
        let (&count, rest) = rest.split_first_chunk::<4>().ok_or(SmallFileFault::Length)?;
        let (prints, rest) = rest.as_chunks::<8>();
        if !rest.is_empty() || u32::try_from(prints.len()) != Ok(u32::from_be_bytes(count)) {
            return Err(SmallFileFault::Length);
        }
        Ok(Self {
            lineage: Lineage(u64::from_be_bytes(lineage)),
            incarnation: u64::from_be_bytes(incarnation),
            is_closed: is_closed == 1,
            prints: prints.iter().map(|print| DirectoryPrint(u64::from_be_bytes(*print))).collect(),
        })
    }
}

/// Puts `bytes` in the place of what a file holds, durably.
fn overwrite(fs: &dyn FileSystem, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let file = fs.open(path, OpenMode::ReadWrite)?;
    fs::write_all_at(&*file, bytes, 0)?;
    file.set_len(bytes.len() as u64)?;
    file.sync_data()
}

/// What the data directory says of one partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Parents {
    /// Below it everything was synced.
    pub(crate) recovery_point: Option<Offset>,
    /// Listed where it is past the first segment's base.
    pub(crate) log_start: Option<Offset>,
    /// As it was last written down.
    pub(crate) high_watermark: Option<Offset>,
    /// First dirty offset.
    pub(crate) first_dirty: Option<Offset>,
    /// Whether all logs of the directory were closed.
    pub(crate) is_clean: bool,
}

/// What counts for a partition whose own state is of another lineage; and, in a store, who is told of cuts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Word {
    /// Of the data directory.
    pub(crate) lineage: Lineage,
    /// Whether there are files of Kafka's in it, or of a store, so that partitions take a canary.
    pub(crate) is_shared: bool,
    /// What the directory says.
    pub(crate) parents: Parents,
    /// The store, when it is one that opens the partition.
    pub(crate) above: Option<Arc<dyn Above>>,
}

/// Whose word counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    /// The partition's own.
    Own,
    /// The data directory's: Kafka's lists, and its marker of a clean shutdown.
    Parents,
    /// Both, where they agree: the lower recovery point, and no clean shutdown but our own.
    Lower,
    /// Nobody's: what was durable is unknown.
    Nobodys,
}

/// A partition's own state, as far as it says whether it is to be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Own {
    /// Under which it was written; `None` when Kafka has loaded the partition since: its canary is gone.
    pub(crate) lineage: Option<Lineage>,
    /// The log was closed cleanly by us after all that it says.
    pub(crate) is_closed: bool,
}

/// The table. `own` is the partition's own state, if it has any that can be read.
///
/// | | own state | the list | counts |
/// |---|---|---|---|
/// | J1 | of this lineage | whatever it says | own |
/// | J2 | of another one, closed cleanly | names the partition | the lists |
/// | J3 | none | names the partition | the lists |
/// | J4 | of another one, and the log was open to the end | names the partition | the lower of both |
/// | J5 | none, or of another lineage | does not | nobody |
///
/// J4 is a crash of ours before Kafka came. What it had to find out about the log's end it judged by a recovery point that
/// is ours no more than its marker is: neither speaks of the syncs that our crash left open.
pub(crate) fn judge(own: Option<Own>, word: &Word) -> Whose {
    match (own, word.parents.recovery_point) {
        // J1: nobody else was here since it was written.
        (Some(Own { lineage: Some(own), .. }), _) if own == word.lineage => Whose::Own,
        // J4: somebody came after a crash of ours.
        (Some(Own { is_closed: false, .. }), Some(_)) => Whose::Lower,
        // J2: somebody came after our close; and J3: it was always somebody else's. Kafka replaces its list when it cuts.
        (_, Some(_)) => Whose::Parents,
        // J5: somebody was who left no word; or there never was any.
        (_, None) => Whose::Nobodys,
    }
}

/// All that a data directory says, of all its partitions. Read once, while the directory is locked or the partition is.
#[derive(Clone, Debug, Default)]
pub(crate) struct DirectoryWord {
    pub(crate) lineage: Lineage,
    pub(crate) parts: PrintParts,
    /// What the store before said; nothing when there was none.
    pub(crate) witness: Option<Witness>,
    /// Whether nobody but us was here since then, by all that its files show.
    pub(crate) is_unbroken: bool,
    is_clean: bool,
    /// By the name of the partition's directory.
    partitions: BTreeMap<String, Parents>,
}

impl DirectoryWord {
    /// Reads the lists, the marker and the witness of `dir`. Changes nothing.
    pub(crate) fn read(fs: &dyn FileSystem, dir: &Path) -> Result<Self, IoFailure> {
        let points = read_list(fs, &dir.join(names::RECOVERY_POINTS))?;
        let starts = read_list(fs, &dir.join(names::LOG_STARTS))?;
        let marks = read_list(fs, &dir.join(names::HIGH_WATERMARKS))?;
        let cleaned = read_list(fs, &dir.join(names::CLEANER_OFFSETS))?;
        let marker = read_list(fs, &dir.join(names::PARENT_CLEAN_SHUTDOWN))?;
        let parts = PrintParts::default()
            .with(Part::RecoveryPoints, points.as_deref())
            .with(Part::LogStarts, starts.as_deref())
            .with(Part::Marker, marker.as_deref());
        let witness = Witness::read(fs, dir)?;
        let print = parts.print();
        let is_unbroken = witness.as_ref().is_some_and(|witness| witness.prints.contains(&print));
        let named = witness.as_ref().map(|witness| witness.lineage).unwrap_or_default();
        let lineage = if is_unbroken { named } else { named.broken_by(print) };
        let is_clean = marker.is_some_and(|marker| !marker.starts_with(VOID));
        let mut word = Self { lineage, parts, witness, is_unbroken, is_clean, partitions: BTreeMap::new() };
        word.take(points, |parents| &mut parents.recovery_point);
        word.take(starts, |parents| &mut parents.log_start);
        word.take(marks, |parents| &mut parents.high_watermark);
        word.take(cleaned, |parents| &mut parents.first_dirty);
        Ok(word)
    }

    /// A list that cannot be read says nothing of any partition.
    fn take(&mut self, list: Option<Vec<u8>>, slot: impl Fn(&mut Parents) -> &mut Option<Offset>) {
        let entries = list.and_then(|bytes| decode_offsets(&bytes).ok()).unwrap_or_default();
        for (topic, partition, offset) in entries {
            let parents = self.partitions.entry(format!("{topic}-{partition}")).or_default();
            *slot(parents) = Some(offset);
        }
    }

    /// What it says of the partition whose directory has this name.
    pub(crate) fn of(&self, dir_name: &str) -> Word {
        let parents = self.partitions.get(dir_name).copied().unwrap_or_default();
        let parents = Parents { is_clean: self.is_clean, ..parents };
        let is_shared = self.witness.is_some() || self.parts != PrintParts::default();
        Word { lineage: self.lineage, is_shared, parents, above: None }
    }
}

/// The content of a file; nothing without one. Of one that is longer than any list, the length in its place.
fn read_list(fs: &dyn FileSystem, path: &Path) -> Result<Option<Vec<u8>>, IoFailure> {
    let len = match fs.metadata(path) {
        Ok(found) if found.kind == EntryKind::File => found.len,
        Ok(_) => return Ok(None),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(None),
        Err(e) => return Err(IoFailure::new(IoOperation::Open, path, e)),
    };
    let Some(bytes) = usize::try_from(len).ok().filter(|_| len <= LIST_BYTES_MAX) else {
        return Ok(Some(format!("{len} bytes").into_bytes()));
    };
    let file = fs.open(path, OpenMode::Read).map_err(|e| IoFailure::new(IoOperation::Open, path, e))?;
    let mut content = vec![0; bytes];
    let read = fs::read_full_at(&*file, &mut content, 0).map_err(|e| IoFailure::new(IoOperation::Read, path, e))?;
    content.truncate(read);
    Ok(Some(content))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &[u8] = b"0\n1\norders 0 30\n";
    const B: &[u8] = b"0\n1\norders 0 40\n";

    fn at(value: i64) -> Offset {
        Offset::new(value).unwrap()
    }

    fn world() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    fn put(dir: &Path, name: &str, content: &[u8]) {
        replace_small_file(&crate::fs::OsFileSystem, dir, name, content).unwrap();
    }

    fn word(dir: &Path) -> DirectoryWord {
        DirectoryWord::read(&crate::fs::OsFileSystem, dir).unwrap()
    }

    #[test]
    fn every_part_counts_and_so_does_which_it_is() {
        let none = PrintParts::default();
        let mut prints = vec![none.print()];
        for part in [Part::RecoveryPoints, Part::LogStarts, Part::Marker] {
            for content in [&b""[..], A, B, b"\0"] {
                prints.push(none.with(part, Some(content)).print());
                prints.push(none.with(Part::RecoveryPoints, Some(b"x")).with(part, Some(content)).print());
            }
        }
        // The one that replaces the first part twice.
        let count = prints.len() - 4;
        let mut distinct: Vec<_> = prints;
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), count);
        assert_eq!(none.print(), DirectoryPrint::NONE);
        assert_eq!(none.with(Part::Marker, Some(b"void")), none);
    }

    /// D1 to D4.
    #[test]
    fn the_lineage_stays_for_as_long_as_nobody_else_was_there() {
        let temp = world();
        let dir = temp.path();
        let fs = crate::fs::OsFileSystem;
        assert_eq!(word(dir).lineage, Lineage::NONE);
        put(dir, names::RECOVERY_POINTS, A);
        let first = word(dir);
        assert_ne!(first.lineage, Lineage::NONE);
        assert_eq!(word(dir).lineage, first.lineage);
        let next = first.parts.with(Part::RecoveryPoints, Some(B));
        let prints = vec![first.parts.print(), next.print()];
        Witness { lineage: first.lineage, incarnation: 1, is_closed: false, prints }.write(&fs, dir).unwrap();
        assert_eq!((word(dir).lineage, word(dir).is_unbroken), (first.lineage, true));
        put(dir, names::RECOVERY_POINTS, B);
        assert_eq!((word(dir).lineage, word(dir).is_unbroken), (first.lineage, true));
        put(dir, names::LOG_STARTS, b"");
        let broken = word(dir);
        assert_eq!((broken.lineage, broken.is_unbroken), (first.lineage.broken_by(broken.parts.print()), false));
        // Whoever comes next counts on from there, and the same files mean another lineage then.
        let next = Witness { lineage: broken.lineage, prints: Vec::new(), ..Witness::default() };
        next.write(&fs, dir).unwrap();
        assert!(![first.lineage, broken.lineage, Lineage::NONE].contains(&word(dir).lineage));
    }

    #[test]
    fn a_witness_that_cannot_be_read_knows_nothing() {
        let temp = world();
        let (dir, fs) = (temp.path(), crate::fs::OsFileSystem);
        put(dir, names::RECOVERY_POINTS, A);
        let print = word(dir).parts.print();
        let lineage = Lineage(77);
        let witness = Witness { lineage, incarnation: 3, is_closed: true, prints: vec![DirectoryPrint(5), print] };
        witness.write(&fs, dir).unwrap();
        assert_eq!(Witness::read(&fs, dir).unwrap(), Some(witness.clone()));
        assert_eq!(word(dir).lineage, lineage);
        let mut bytes = witness.encode();
        bytes[30] ^= 1;
        put(dir, names::STORE_WITNESS, &bytes);
        assert_eq!((word(dir).is_unbroken, word(dir).lineage == lineage), (false, false));
        let payload = WITNESS.encode(&[0; 22]);
        put(dir, names::STORE_WITNESS, &payload);
        assert_eq!(Witness::read(&fs, dir).unwrap(), Some(Witness::default()));
    }

    /// J1 to J5.
    #[test]
    fn whose_word_counts() {
        let (old, new) = (Lineage(1), Lineage(2));
        let said = Parents { recovery_point: Some(at(5)), ..Parents::default() };
        let word = |parents| Word { lineage: new, is_shared: true, parents, above: None };
        for is_closed in [false, true] {
            let own = |lineage| Some(Own { lineage, is_closed });
            let counts = if is_closed { Whose::Parents } else { Whose::Lower };
            assert_eq!(judge(own(Some(new)), &word(said)), Whose::Own);
            assert_eq!(judge(own(Some(new)), &word(Parents::default())), Whose::Own);
            assert_eq!(judge(own(Some(old)), &word(said)), counts);
            assert_eq!(judge(own(None), &word(said)), counts);
            assert_eq!(judge(own(Some(old)), &word(Parents::default())), Whose::Nobodys);
            assert_eq!(judge(own(None), &word(Parents::default())), Whose::Nobodys);
            assert_eq!(judge(own(Some(Lineage::NONE)), &Word::default()), Whose::Own);
        }
        assert_eq!(judge(None, &word(said)), Whose::Parents);
        assert_eq!(judge(None, &word(Parents::default())), Whose::Nobodys);
    }

    #[test]
    fn lists_are_looked_up_by_the_name_of_the_directory() {
        let temp = world();
        let dir = temp.path();
        put(dir, names::RECOVERY_POINTS, b"0\n2\norders 0 30\nmy-topic 12 7\n");
        put(dir, names::LOG_STARTS, b"not a list");
        put(dir, names::HIGH_WATERMARKS, b"0\n1\nmy-topic 12 6\n");
        put(dir, names::PARENT_CLEAN_SHUTDOWN, b"{\"version\":0,\"brokerEpoch\":7}");
        let parents = word(dir).of("my-topic-12").parents;
        let expected =
            Parents { recovery_point: Some(at(7)), high_watermark: Some(at(6)), is_clean: true, ..Parents::default() };
        assert_eq!(parents, expected);
        assert_eq!(word(dir).of("orders-1").parents, Parents { is_clean: true, ..Parents::default() });
    }
}
