//! `meta.properties`: whose data directory it is (formats: Kafka's `MetaProperties`, version 0 by `ZooKeeper`'s brokers,
//! version 1 since `KRaft`; the directory's id by KIP-858).
//!
//! | key | version 0 | version 1 |
//! |---|---|---|
//! | `version` | may be missing | 1 |
//! | `cluster.id` | may be missing | always |
//! | `broker.id` | may be missing | not looked at |
//! | `node.id` | not looked at | always |
//! | `directory.id` | may be missing | may be missing |
//!
//! What is there is respected: a directory of another cluster or node, or a copy of a directory beside the original, is
//! refused before anything in it changes. A file that is there is never rewritten.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::io;
use std::path::{Path, PathBuf};

use super::names::META_PROPERTIES;
use super::partition_id::{DirectoryId, IdFault};
use super::{Content, read_content};
use crate::config::parse_properties;
use crate::error::{ConfigError, IoFailure, IoOperation};
use crate::fs::FileSystem;
use crate::index::replace_small_file;

/// Such a file has some hundred bytes.
const FILE_BYTES_MAX: usize = 64 << 10;
const VERSION: &str = "version";
const CLUSTER_ID: &str = "cluster.id";
const BROKER_ID: &str = "broker.id";
const NODE_ID: &str = "node.id";
const DIRECTORY_ID: &str = "directory.id";

/// Number of a node (broker or controller) in its cluster, 0 to `i32::MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(i32);

impl NodeId {
    /// `None` when `value` is negative.
    pub const fn new(value: i32) -> Option<Self> {
        if value < 0 { None } else { Some(Self(value)) }
    }

    /// The number itself, never negative.
    pub const fn value(self) -> i32 {
        self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which form a `meta.properties` has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MetaVersion {
    /// Of brokers under `ZooKeeper`: `broker.id`, and every key may be missing.
    V0,
    /// Since `KRaft`: `node.id` and `cluster.id` are always there.
    V1,
}

/// What is wrong with the content of a `meta.properties`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MetaFault {
    /// No such file is this long.
    #[error("{bytes} bytes are more than the {FILE_BYTES_MAX} that it may have")]
    Size {
        /// Bytes of the file.
        bytes: u64,
    },
    /// It is not in the syntax of Java's properties.
    #[error(transparent)]
    Syntax(ConfigError),
    /// A version that this build does not read.
    #[error("its version is neither 0 nor 1")]
    Version,
    /// A key that this version always has is missing.
    #[error("it lacks {key}")]
    Missing {
        /// The key.
        key: &'static str,
    },
    /// A key stands there twice with different values. Java would silently take the later one.
    #[error("it says two things of {key}")]
    Contradiction {
        /// The key.
        key: &'static str,
    },
    /// A node's number is no number from 0 to `i32::MAX`.
    #[error("its {key} is no number from 0 to {}", i32::MAX)]
    Node {
        /// `broker.id` or `node.id`.
        key: &'static str,
    },
    /// The directory's id is none.
    #[error("its directory.id is wrong: {0}")]
    Directory(IdFault),
}

/// Why data directories are refused for their `meta.properties`, or one cannot be written. Nothing was changed on disk.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MetaError {
    /// The file is there and cannot be read.
    #[error("{} cannot be read: {fault}; restore it from another data directory of the node, or remove it", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// What is wrong in it.
        fault: MetaFault,
    },
    /// A directory belongs to another cluster.
    #[error(
        "{} is of cluster {found:?}, not {expected:?}; name the directory of this cluster, or empty it",
        file.display()
    )]
    Cluster {
        /// The file.
        file: PathBuf,
        /// The cluster expected, or that of a directory before it.
        expected: String,
        /// The cluster in the file.
        found: String,
    },
    /// A directory belongs to another node.
    #[error("{} is of node {found}, not {expected}; name the directory of this node, or empty it", file.display())]
    Node {
        /// The file.
        file: PathBuf,
        /// The node expected, or that of a directory before it.
        expected: NodeId,
        /// The node in the file.
        found: NodeId,
    },
    /// Two directories have one id: one is a copy of the other.
    #[error(
        "{} and {} have the same directory.id {id}: one is a copy of the other; leave it out, or give it an id of its own",
        first.display(), second.display()
    )]
    DuplicateDirectory {
        /// The file that has the id first.
        first: PathBuf,
        /// The other one.
        second: PathBuf,
        /// The id.
        id: DirectoryId,
    },
    /// There is a file, and such a file is never rewritten.
    #[error("{} is there already and is not rewritten; read it instead", file.display())]
    Present {
        /// The file.
        file: PathBuf,
    },
    /// A system call failed. Where its path is the directory, the file is in place and may not last.
    #[error(transparent)]
    Io(#[from] IoFailure),
}

/// The cluster and node that data directories belong to, as far as known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The cluster; Kafka takes any text, usually a UUID as printed.
    pub cluster_id: Option<String>,
    /// The node.
    pub node_id: Option<NodeId>,
}

/// What a `meta.properties` says.
///
/// ```
/// use alluvium::store::{DirectoryId, MetaProperties, NodeId};
/// let text = b"version=1\ncluster.id=golden\nnode.id=1\ndirectory.id=AAAAAAAAAAUAAAAAAAAABg\n";
/// let meta = MetaProperties::decode(text).unwrap();
/// assert_eq!(meta.cluster_id(), Some("golden"));
/// assert_eq!(meta.node_id(), NodeId::new(1));
/// assert_eq!(meta.directory_id(), DirectoryId::new(5 << 64 | 6));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaProperties {
    version: MetaVersion,
    identity: Identity,
    directory_id: Option<DirectoryId>,
}

impl MetaProperties {
    /// That of a new directory, of version 1.
    pub fn new(cluster_id: impl Into<String>, node_id: NodeId, directory_id: Option<DirectoryId>) -> Self {
        let identity = Identity { cluster_id: Some(cluster_id.into()), node_id: Some(node_id) };
        Self { version: MetaVersion::V1, identity, directory_id }
    }

    /// Which form it has.
    pub fn version(&self) -> MetaVersion {
        self.version
    }

    /// The cluster; always known in version 1.
    pub fn cluster_id(&self) -> Option<&str> {
        self.identity.cluster_id.as_deref()
    }

    /// The node; always known in version 1.
    pub fn node_id(&self) -> Option<NodeId> {
        self.identity.node_id
    }

    /// The directory.
    pub fn directory_id(&self) -> Option<DirectoryId> {
        self.directory_id
    }

    /// Reads the file of `dir`; `None` where there is none. Changes nothing.
    ///
    /// # Errors
    /// [`MetaError::Malformed`] and [`MetaError::Io`].
    pub fn read(fs: &dyn FileSystem, dir: &Path) -> Result<Option<Self>, MetaError> {
        let file = dir.join(META_PROPERTIES);
        let decoded = match read_content(fs, &file, FILE_BYTES_MAX)? {
            None => return Ok(None),
            Some(Content::Whole(bytes)) => Self::decode(&bytes),
            Some(Content::TooLong(bytes)) => Err(MetaFault::Size { bytes }),
        };
        decoded.map(Some).map_err(|fault| MetaError::Malformed { file, fault })
    }

    /// Writes the file into a directory that has none. Durable when it returns; a crash leaves it whole or not at all.
    ///
    /// # Errors
    /// [`MetaError::Present`], whatever the file that is there says, and [`MetaError::Io`].
    pub fn write_new(&self, fs: &dyn FileSystem, dir: &Path) -> Result<(), MetaError> {
        let file = dir.join(META_PROPERTIES);
        match fs.metadata(&file) {
            Ok(_) => Err(MetaError::Present { file }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Ok(replace_small_file(fs, dir, META_PROPERTIES, &self.encode())?)
            }
            Err(e) => Err(IoFailure::new(IoOperation::List, file, e).into()),
        }
    }

    /// Reads the bytes of a file. Like Java, takes them for Latin-1 with escapes; keys that Kafka does not know are
    /// passed over.
    ///
    /// # Errors
    /// [`MetaFault`]: the first thing that is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self, MetaFault> {
        let text: String = bytes.iter().map(|byte| char::from(*byte)).collect();
        let values = values_by_key(&text)?;
        let value = |key: &str| values.get(key).map(String::as_str);
        let version = match value(VERSION) {
            None | Some("0") => MetaVersion::V0,
            Some("1") => MetaVersion::V1,
            Some(_) => return Err(MetaFault::Version),
        };
        let node_key = node_key(version);
        if version == MetaVersion::V1 {
            let missing = [CLUSTER_ID, NODE_ID].into_iter().find(|key| value(key).is_none());
            missing.map_or(Ok(()), |key| Err(MetaFault::Missing { key }))?;
        }
        let node = |text: &str| text.trim().parse().ok().and_then(NodeId::new).ok_or(MetaFault::Node { key: node_key });
        let identity = Identity {
            cluster_id: value(CLUSTER_ID).map(str::to_owned),
            node_id: value(node_key).map(node).transpose()?,
        };
        let directory_id = value(DIRECTORY_ID).map(str::parse).transpose().map_err(MetaFault::Directory)?;
        Ok(Self { version, identity, directory_id })
    }

    /// The bytes of the file. Kafka's has a date in a comment besides, and its keys in the order of a hash map.
    pub fn encode(&self) -> Vec<u8> {
        let version = match self.version {
            MetaVersion::V0 => "0",
            MetaVersion::V1 => "1",
        };
        let fields = [
            (node_key(self.version), self.identity.node_id.map(|id| id.to_string())),
            (DIRECTORY_ID, self.directory_id.map(|id| id.to_string())),
            (VERSION, Some(version.to_owned())),
            (CLUSTER_ID, self.identity.cluster_id.as_deref().map(escaped)),
        ];
        let present = fields.into_iter().filter_map(|(key, value)| Some(format!("{key}={}\n", value?)));
        present.collect::<String>().into_bytes()
    }
}

impl Identity {
    /// Checks what the data directories of one store say against what is expected and against one another, as Kafka's
    /// `MetaPropertiesEnsemble.verify` does: one cluster, one node, a directory's id in one directory alone. Returns the
    /// identity that results: what was expected, and what was not known from the directories.
    ///
    /// ```
    /// use alluvium::store::{Identity, MetaError, MetaProperties, NodeId};
    /// let of = |cluster: &str| MetaProperties::new(cluster, NodeId::new(1).unwrap(), None);
    /// let found = [("a".into(), of("east")), ("b".into(), of("west"))];
    /// let error = Identity::default().verify(&found).unwrap_err();
    /// assert!(matches!(error, MetaError::Cluster { expected, found, .. } if expected == "east" && found == "west"));
    /// ```
    ///
    /// # Errors
    /// [`MetaError::Cluster`], [`MetaError::Node`], [`MetaError::DuplicateDirectory`]: the first that is found, in the
    /// order given.
    pub fn verify(&self, directories: &[(PathBuf, MetaProperties)]) -> Result<Self, MetaError> {
        let mut known = self.clone();
        let mut ids: BTreeMap<DirectoryId, &Path> = BTreeMap::new();
        for (dir, meta) in directories {
            known.admit(dir, meta)?;
            let Some(id) = meta.directory_id else { continue };
            if let Some(first) = ids.insert(id, dir) {
                let [first, second] = [first, dir].map(|dir| dir.join(META_PROPERTIES));
                return Err(MetaError::DuplicateDirectory { first, second, id });
            }
        }
        Ok(known)
    }

    /// Compares what a directory says with what is known, and learns what is not.
    fn admit(&mut self, dir: &Path, meta: &MetaProperties) -> Result<(), MetaError> {
        let file = || dir.join(META_PROPERTIES);
        if let Some(found) = &meta.identity.cluster_id {
            let expected = self.cluster_id.get_or_insert_with(|| found.clone());
            if expected != found {
                return Err(MetaError::Cluster { file: file(), expected: expected.clone(), found: found.clone() });
            }
        }
        if let Some(found) = meta.identity.node_id {
            let expected = *self.node_id.get_or_insert(found);
            if expected != found {
                return Err(MetaError::Node { file: file(), expected, found });
            }
        }
        Ok(())
    }
}

/// What the number of the node is called.
fn node_key(version: MetaVersion) -> &'static str {
    match version {
        MetaVersion::V0 => BROKER_ID,
        MetaVersion::V1 => NODE_ID,
    }
}

fn values_by_key(text: &str) -> Result<BTreeMap<&'static str, String>, MetaFault> {
    let mut values = BTreeMap::new();
    for property in parse_properties(text).map_err(MetaFault::Syntax)? {
        let known =
            [VERSION, CLUSTER_ID, BROKER_ID, NODE_ID, DIRECTORY_ID].into_iter().find(|key| **key == property.key);
        let Some(key) = known else { continue };
        let earlier = values.insert(key, property.value.clone());
        if earlier.is_some_and(|earlier| earlier != property.value) {
            return Err(MetaFault::Contradiction { key });
        }
    }
    Ok(values)
}

/// A value as `java.util.Properties.store` writes it: in ASCII, read back the same.
fn escaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for (at, c) in value.char_indices() {
        match c {
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\x0c' => out.push_str("\\f"),
            ' ' if at == 0 => out.push_str("\\ "),
            '\\' | '=' | ':' | '#' | '!' => out.extend(['\\', c]),
            ' '..='~' => out.push(c),
            _ => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    // Writing to a string cannot fail.
                    let _ = write!(out, "\\u{unit:04X}");
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests;
