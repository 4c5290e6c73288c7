// SPDX-License-Identifier: GPL-2.0-only
//! What a buffer stands on: the machine, who pays, and who has it mapped.

use htlb_core::ledger::AccountId;
use htlb_core::{HugeSize, Pfn};
use kernel::sync::{Arc, SetOnce};

use crate::accounts::Payer;
use crate::ffi::file::Mappings;
use crate::ffi::page::Page;
use crate::import::Donation;
use crate::machine::Machine;

/// Everything of a buffer but its pages.
pub(crate) struct Backing {
    payer: Arc<Payer>,
    mappings: SetOnce<Mappings>,
    donation: Option<Donation>,
}

impl Backing {
    /// For a buffer that nobody has mapped yet.
    pub(crate) fn new(payer: Arc<Payer>) -> Self {
        Self { payer, mappings: SetOnce::new(), donation: None }
    }

    /// For a buffer over these pages and no others.
    pub(crate) fn of_donation(payer: Arc<Payer>, donation: Donation) -> Self {
        Self { payer, mappings: SetOnce::new(), donation: Some(donation) }
    }

    /// The donated pages that it consists of, if it does.
    pub(crate) fn donation(&self) -> Option<&Donation> {
        self.donation.as_ref()
    }

    /// The page that begins at this byte of the buffer and at this frame, if that is true.
    pub(crate) fn page(&self, offset: u64, pfn: Pfn, size: HugeSize) -> Option<Page> {
        match &self.donation {
            Some(donation) => donation.page(offset, pfn, size),
            None => Page::owned(pfn, size),
        }
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
