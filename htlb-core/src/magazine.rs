// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Pages that an owner keeps for itself, so that what it wrote needs no clearing for it.
