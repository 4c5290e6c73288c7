// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! A machine that exists only in this process, behind [`htlb_core::Host`].
//!
//! Its frame numbers are physical, so DMA masks and contiguous runs are real; its pages have contents, and each byte
//! knows who wrote it, so that [`SimMachine::audit`] sees when somebody's data reach somebody else. Anything that the
//! core asks of the world can be made to fail, by number ([`Faults`]). A page that is [held](SimMachine::hold) from
//! outside goes to limbo. Threads really sleep, and one that sleeps for half a minute is a lost wake-up, and panics.
//!
//! | file | what it simulates |
//! |---|---|
//! | [`memory`] | which frames are whose, and what is in them |
//! | [`faults`] | the n-th call that fails, and calls that last |
//! | [`wait`] | wait queues |
//! | [`lock`] | a lock that knows its order, and that nothing slow happens under it |
//! | [`machine`] | pools, owners, accounts, and the system behind them |
//! | [`resize`] | pools that grow, shrink, and break large pages up |
//! | [`kept`] | magazines and limbo |
//! | [`host`] | the machine as one buffer sees it |
//! | [`buffer`] | a buffer, with the gate around every call |
//! | [`facts`] | all that an `Err` must leave as it was, and the audit |
//! | [`backend`] | the machine as the conformance suite sees it |

pub mod backend;
pub mod buffer;
pub mod facts;
pub mod faults;
pub mod host;
pub mod kept;
pub mod lock;
pub mod machine;
pub mod memory;
pub mod resize;
pub mod wait;

pub use buffer::SimBuffer;
pub use facts::Facts;
pub use faults::{Call, Failing, Faults, Point};
pub use host::SimHost;
pub use machine::{Owner, SimMachine};
