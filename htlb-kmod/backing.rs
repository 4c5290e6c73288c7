// SPDX-License-Identifier: GPL-2.0-only
//! What a buffer stands on: the machine, who pays, and who has it mapped.

use htlb_core::ledger::AccountId;
use htlb_core::HugeSize;
use kernel::sync::{Arc, SetOnce};

use crate::accounts::Payer;
use crate::ffi::file::Mappings;
use crate::machine::Machine;

/// Everything of a buffer but its pages.
pub(crate) struct Backing {
    payer: Arc<Payer>,
    mappings: SetOnce<Mappings>,
}

impl Backing {
    /// For a buffer that nobody has mapped yet.
    pub(crate) fn new(payer: Arc<Payer>) -> Self {
        Self { payer, mappings: SetOnce::new() }
    }

    /// The machine.
    pub(crate) fn machine(&self) -> &Machine {
        self.payer.machine()
    }

    /// Who pays.
    pub(crate) fn payer(&self) -> &Arc<Payer> {
        &self.payer
    }

    /// The account that pays for pages of this size.
    pub(crate) fn account(&self, size: HugeSize) -> AccountId {
        self.payer.account(size)
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
