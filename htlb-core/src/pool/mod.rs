// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Which page: free pages by class, whole chunks kept whole, clean ones known.
