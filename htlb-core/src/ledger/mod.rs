// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Who may have how many pages: promises, accounts, surplus, and the witness that proves every promise can be kept.
