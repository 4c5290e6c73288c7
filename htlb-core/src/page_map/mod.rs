// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Offset to page: one atomic slot per page, and nothing beside it.
