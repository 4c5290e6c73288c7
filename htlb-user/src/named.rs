// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Named buffers from requests: which pages they get, and how another process finds them.
//!
//! ```text
//! Request ─► policy::resolve ─► Draft: rung by rung, populated, verified ─► fill ─► publish ─► Named::attach
//! ```
//!
//! [`Machine`] is what policy needs to know of this machine. A [`Draft`] goes down the ladder: the system's
//! hugetlb pools by files on a hugetlbfs, transparent huge pages where the system allows them for shared memory, base pages. A page
//! counts once it is populated, on the node and below the DMA mask that were asked for; what a rung lacks, the next one gives, and the
//! [`Receipt`] says so. A [`Growing`] does the same for a stream, whose length shows at its end. [`Named`] is the published buffer,
//! mapped as one slice.
//!
//! # Invariants
//! - A shortage is a value: no byte of a draft is touched before its page is there.
//! - The bytes behind the end of the content are zero, up to the end of the last page.
//! - A draft that is dropped leaves nothing; nobody sees it before it is published.
//!
//! The named file is all that other processes get: no page of a pool of this process is ever in it.
//!
//! Neighbours: [`store`](crate::store) keeps names and files, [`load`](crate::load) fills, [`system`](crate::system) knows
//! pools and limits, [`htlb_core::policy`] decides.
//!
//! ```
//! use htlb_core::{ByteLen, Request};
//! use htlb_user::named::{Draft, Machine, Named, Options};
//! use htlb_user::store::{Config, Store};
//! # let root = std::env::temp_dir().join(format!("htlb-doc-named-{}", std::process::id()));
//! let machine = Machine::host();
//! let store = Store::open(Config::within(&root, Vec::new())?)?;
//! let request = Request::builder(ByteLen::new(11)).build()?;
//!
//! let mut draft = Draft::new(&store, "greeting", &machine, &request, &Options::default())?;
//! draft.spans()[0].write(b"hello world");
//! let published = draft.publish(11, None)?;
//! assert_eq!(published.receipt.asked.raw(), 11);
//!
//! let named = Named::attach(&store, "greeting")?;
//! assert_eq!(named.as_slice(), b"hello world");
//! store.remove("greeting")?;
//! # std::fs::remove_dir_all(root)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod draft;
mod error;
mod files;
mod growing;
mod ladder;
mod machine;
mod pages;
mod populate;
mod shortage;
mod verify;

use std::fmt;
use std::os::fd::BorrowedFd;

use crate::store::{Opened, Part, Record, Store, StoreError};
use crate::sys::file::Joined;

pub use draft::{Draft, Published};
pub use error::NamedError;
pub use growing::Growing;
pub use machine::Machine;
pub use populate::Options;
pub use shortage::Shortage;

#[cfg(doc)]
use crate::Receipt;

/// A published buffer, open and mapped read-only as one slice.
///
/// It stays whole for as long as this value lives, whoever removes or replaces its name meanwhile.
///
/// # Signals
/// The files are read-only and this user's. A process of the same user that makes one writable again and cuts or punches it takes
/// the pages from everybody: a touch may then be a `SIGBUS`. Nothing in this crate does that.
pub struct Named {
    opened: Opened,
    memory: Joined,
}

impl Named {
    /// Opens the buffer called `name`, whole, and maps it.
    ///
    /// # Errors
    /// Those of [`Store::open_name`], and [`StoreError::Io`] if it cannot be mapped.
    pub fn attach(store: &Store, name: &str) -> Result<Self, StoreError> {
        let opened = store.open_name(name)?;
        let memory = opened.map_all()?;
        Ok(Self { opened, memory })
    }

    /// Exactly the content.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        let pages = self.memory.bytes();
        let len = usize::try_from(self.opened.len()).unwrap_or(usize::MAX);
        pages.get(..len).unwrap_or(pages)
    }

    /// The content and what follows it up to the end of the last page, which is zero.
    #[must_use]
    pub fn as_pages(&self) -> &[u8] {
        self.memory.bytes()
    }

    /// The length of the content in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.opened.len()
    }

    /// Whether there is no content.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.opened.is_empty()
    }

    /// What was published.
    #[must_use]
    pub fn record(&self) -> &Record {
        self.opened.record()
    }

    /// The files, read-only, in the order of their bytes: to pass on.
    pub fn parts(&self) -> impl ExactSizeIterator<Item = (&Part, BorrowedFd<'_>)> {
        self.opened.parts()
    }
}

impl AsRef<[u8]> for Named {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl fmt::Debug for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Named")
            .field("record", self.record())
            .finish_non_exhaustive()
    }
}
