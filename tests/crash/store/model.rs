//! What a store was promised to hold, kept beside it: as simple as that can be put.

use std::collections::{BTreeMap, BTreeSet};

use alluvium::store::TopicId;

/// A partition that was created and not deleted, as far as that was acknowledged.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    /// One record an offset, from offset 0 on. What was asked for and not acknowledged is among them.
    pub(crate) values: Vec<String>,
    /// So many were appended with an answer: the death of the process does not take them.
    pub(crate) cached: usize,
    /// So many were acknowledged as durable.
    pub(crate) durable: usize,
    /// A truncation to here was asked for and not answered; `values` are those before it.
    pub(crate) cutting: Option<usize>,
    /// Where the log starts at least and at most.
    pub(crate) start: (usize, usize),
    pub(crate) topic_id: Option<TopicId>,
    /// The fencing token that was answered, and one that was asked for.
    pub(crate) token: (Option<u64>, Option<u64>),
    /// Whether it is sealed, and what was asked for.
    pub(crate) is_sealed: (bool, bool),
    /// The creation was not answered.
    pub(crate) is_creating: bool,
    /// A deletion was asked for and not answered.
    pub(crate) is_deleting: bool,
}

/// What is asked of the store as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Never opened, or the opening was not answered, or the closing was not or was: a marker may be there, if all is well.
    #[default]
    AtRest,
    /// Open: there is no marker.
    Serving,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub(crate) partitions: BTreeMap<String, Known>,
    /// Names of partitions whose deletion was answered.
    pub(crate) deleted: BTreeSet<String>,
    pub(crate) phase: Phase,
}

/// How a store ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ending {
    PowerLoss,
    Kill,
}

/// What was found of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) start: usize,
    pub(crate) values: Vec<String>,
    pub(crate) topic_id: Option<TopicId>,
    pub(crate) token: Option<u64>,
    pub(crate) is_sealed: bool,
    pub(crate) dir: String,
}

impl Model {
    pub(crate) fn known(&mut self, name: &str) -> &mut Known {
        self.partitions.get_mut(name).unwrap_or_else(|| panic!("the script uses {name} before it makes it"))
    }

    /// What is wrong with what an opening found.
    pub(crate) fn judge(&self, found: &BTreeMap<String, Found>, ending: Ending) -> Result<(), String> {
        if let Some(name) = found.keys().find(|name| !self.partitions.contains_key(*name)) {
            let was = if self.deleted.contains(name) { "was deleted" } else { "was never there" };
            return Err(format!("{name} is there and {was}"));
        }
        for (name, known) in &self.partitions {
            match found.get(name) {
                Some(found) => known.judge(found, ending).map_err(|what| format!("{name}: {what}"))?,
                None if known.is_creating || known.is_deleting => {}
                None => return Err(format!("{name} is not there")),
            }
        }
        Ok(())
    }
}

impl Known {
    fn judge(&self, found: &Found, ending: Ending) -> Result<(), String> {
        let end = found.start + found.values.len();
        if !(self.start.0..=self.start.1).contains(&found.start) {
            return Err(format!("it starts at {}, which is not within {:?}", found.start, self.start));
        }
        if self.values.get(found.start..end) != Some(found.values.as_slice()) {
            return Err(format!("it holds {:?} from {} on, of {:?}", found.values, found.start, self.values));
        }
        let promised = if ending == Ending::Kill { self.cached } else { self.durable };
        let promised = promised.min(self.cutting.unwrap_or(usize::MAX));
        if end < promised {
            return Err(format!("it ends at {end}, and {promised} was promised for a {ending:?}"));
        }
        let is_claimed = found.topic_id == self.topic_id || (self.is_creating && found.topic_id.is_none());
        if !is_claimed {
            return Err(format!("its topic is {:?} and not {:?}", found.topic_id, self.topic_id));
        }
        if found.token != self.token.0 && found.token != self.token.1 {
            return Err(format!("its token is {:?}, of {:?}", found.token, self.token));
        }
        if found.is_sealed != self.is_sealed.0 && found.is_sealed != self.is_sealed.1 {
            return Err(format!("sealed {} of {:?}", found.is_sealed, self.is_sealed));
        }
        Ok(())
    }
}
