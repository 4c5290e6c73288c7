// SPDX-License-Identifier: GPL-2.0-only
//! What a buffer stands on: the machine, who pays, and who has it mapped.

use htlb_core::ledger::AccountId;
use htlb_core::HugeSize;
use kernel::sync::{Arc, SetOnce};

use crate::ffi::file::Mappings;
use crate::machine::Machine;

/// Everything of a buffer but its pages.
pub(crate) struct Backing {
    machine: Arc<Machine>,
    mappings: SetOnce<Mappings>,
}

impl Backing {
    /// For a buffer that nobody has mapped yet.
    pub(crate) fn new(machine: Arc<Machine>) -> Self {
        Self { machine, mappings: SetOnce::new() }
    }

    /// The machine.
    pub(crate) fn machine(&self) -> &Machine {
        &self.machine
    }

    /// The account that pays for pages of this size.
    pub(crate) fn account(&self, _size: HugeSize) -> AccountId {
        AccountId::ROOT
    }

    /// The buffer can be mapped from now on.
    pub(crate) fn mapped_by(&self, mappings: Mappings) {
        self.mappings.populate(mappings);
    }

    /// Who has it mapped.
    pub(crate) fn mappings(&self) -> Option<Mappings> {
        self.mappings.copy()
    }
}
