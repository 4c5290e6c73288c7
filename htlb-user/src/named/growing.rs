// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! A named buffer for a stream: it grows while it is filled, and is cut at the end.

use std::collections::VecDeque;
use std::io;

use htlb_core::{ByteLen, RequestBuilder};

use super::draft::Published;
use super::error::NamedError;
use super::files::Files;
use super::ladder::Reaching;
use super::machine::Machine;
use super::populate::Options;
use crate::load::{Sink, Span};
use crate::store::Store;
use crate::sys::lease::Lease;

/// The first piece, in bytes: also what the ladder is made for, since nobody knows the length.
const FIRST: u64 = 2 << 20;
/// The longest piece, in bytes.
const LONGEST: u64 = 1 << 30;

/// A named buffer that a stream fills: a [`Sink`]. Dropped, it leaves nothing.
///
/// ```
/// use htlb_core::{ByteLen, Request};
/// use htlb_user::load::{fill_stream, Options as Reading, Source};
/// use htlb_user::named::{Growing, Machine, Named, Options};
/// use htlb_user::store::{Config, Store};
/// # let root = std::env::temp_dir().join(format!("htlb-doc-growing-{}", std::process::id()));
/// let (machine, options) = (Machine::host(), Options::default());
/// let store = Store::open(Config::within(&root, Vec::new())?)?;
/// // Files under /proc have no length in advance.
/// let source = Source::open("/proc/version".as_ref())?;
///
/// let mut growing = Growing::new(&store, "version", &machine, Request::builder(ByteLen::ZERO), &options)?;
/// let report = fill_stream(&source, &mut growing, &Reading::default(), |_| {})?;
/// growing.publish(report.bytes, None)?;
/// assert_eq!(Named::attach(&store, "version")?.as_slice(), std::fs::read("/proc/version")?);
/// store.remove("version")?;
/// # std::fs::remove_dir_all(root)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "a buffer that is dropped is thrown away"]
pub struct Growing<'a> {
    // ORDER: leases before the files they map.
    current: Option<Lease>,
    queue: VecDeque<Lease>,
    files: Files,
    options: Options<'a>,
    failure: Option<NamedError>,
}

impl<'a> Growing<'a> {
    /// A buffer that will be called `name`. The size in `request` is not used.
    ///
    /// # Errors
    /// As [`Draft::new`](super::Draft::new), but that no page is taken yet.
    pub fn new(
        store: &Store,
        name: &str,
        machine: &Machine,
        request: RequestBuilder,
        options: &Options<'a>,
    ) -> Result<Self, NamedError> {
        let request = request.size(ByteLen::new(FIRST)).build()?;
        Ok(Self {
            current: None,
            queue: VecDeque::new(),
            files: Files::new(store, name, machine, &request)?,
            options: *options,
            failure: None,
        })
    }

    /// Why the last [`Sink::grow`] failed, in full.
    pub fn take_failure(&mut self) -> Option<NamedError> {
        self.failure.take()
    }

    /// Cuts off what the first `len` bytes do not need, and publishes as [`Draft::publish`](super::Draft::publish) does.
    ///
    /// # Errors
    /// [`NamedError::Store`]; then nothing is published and nothing is left.
    pub fn publish(self, len: u64, source: Option<String>) -> Result<Published, NamedError> {
        let Self {
            current,
            queue,
            mut files,
            ..
        } = self;
        // ORDER: no mapping reaches past the end of a file that is cut, and no writable one is left.
        drop((current, queue));
        files.cut(len);
        files.reconsider(len);
        files.publish(len, ByteLen::new(len), source)
    }
}

impl Sink for Growing<'_> {
    fn grow(&mut self, filled: u64) -> io::Result<Span<'_>> {
        self.current = None;
        if self.queue.is_empty() {
            // Not more than a quarter too much, which might be what others need meanwhile.
            let want = (filled / 4).clamp(FIRST, LONGEST);
            let mut leases = Vec::new();
            let covered = self
                .files
                .cover(want, Reaching::Something, &self.options, &mut leases);
            let asked = ByteLen::new(filled.saturating_add(want));
            let failure = match covered {
                Ok(0) => Some(self.files.shortage(asked, filled)),
                Ok(_) => None,
                Err(error) => Some(error),
            };
            if let Some(error) = failure {
                let said = io::Error::new(io::ErrorKind::OutOfMemory, error.to_string());
                self.failure = Some(error);
                return Err(said);
            }
            self.queue.extend(leases);
        }
        self.current = self.queue.pop_front();
        let bytes = self.current.as_mut().and_then(Lease::bytes_mut);
        bytes
            .map(Span::new)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))
    }
}
