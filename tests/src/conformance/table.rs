// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Every case by name, what it needs, and the macro that makes tests of them.

use htlb_core::HugeSize;

use super::Ability::{
    Accounts, Demote, DirtyWithinOwner, Faults, FilledAtBirth, FiniteSystem, Growth, Limbo,
    Overcommit, OwnThread, Physical, Refusal, Resize,
};
use super::{accounts, buffers, fill, owners, pool, promises, reach, supply, threads};
use super::{Case, MachineSpec};

const MIB2: HugeSize = HugeSize::MIB2;
const GIB1: HugeSize = HugeSize::GIB1;

const fn mib2(pages: &[super::PoolSpec]) -> MachineSpec<'_> {
    MachineSpec::of(pages)
}

macro_rules! cases {
    (($d:tt) $($module:ident { $($name:ident [$($need:expr),*] $machine:expr;)+ })+) => {
        /// Every case.
        pub const CASES: &[Case] = &[$($(Case {
            name: stringify!($name),
            needs: &[$($need),*],
            machine: $machine,
            body: $module::$name,
        },)+)+];

        /// Makes a module with one `#[test]` of each case for a back end.
        ///
        /// `$make` is a `fn(&MachineSpec) -> Result<impl Machine, Unavailable>`; `lacks` lists every [`Ability`](crate::conformance::Ability)
        /// that the back end has not.
        #[macro_export]
        macro_rules! conformance {
            ($d back_end:ident, $d make:expr, lacks: [$d ($d lacks:ident),* $d (,)?]) => {
                mod $d back_end {
                    use super::*;

                    const LACKS: &[$crate::conformance::Ability] =
                        &[$d ($crate::conformance::Ability::$d lacks),*];

                    $($(
                        #[test]
                        fn $name() {
                            $crate::conformance::Case::named(stringify!($name)).run(
                                stringify!($d back_end),
                                $d make,
                                LACKS,
                            );
                        }
                    )+)+

                    /// Prints the cases that do not apply here; each must be for an ability in the list.
                    #[test]
                    fn not_applicable() {
                        let all = $crate::conformance::CASES;
                        for case in all {
                            if let Some(ability) = case.lacking(LACKS) {
                                println!("NOT APPLICABLE {}: {ability:?}", case.name);
                            }
                        }
                        for ability in LACKS {
                            assert!(
                                all.iter().any(|case| case.needs.contains(ability)),
                                "no case needs {ability:?}"
                            );
                        }
                    }
                }
            };
        }
    };
}

cases! {
    ($)
    promises {
        the_second_of_two_reservations_that_do_not_fit_fails [] mib2(&[pool(MIB2, 6)]);
        a_granted_promise_never_fails_later [] mib2(&[pool(MIB2, 4)]);
        an_unpromised_page_is_never_one_that_a_promise_needs [] mib2(&[pool(MIB2, 3)]);
        a_reservation_covers_holes_only [] mib2(&[pool(MIB2, 6)]);
        a_reservation_covers_all_of_its_range_or_nothing [] mib2(&[pool(MIB2, 4)]);
        a_populated_page_leaves_no_promise_behind [] mib2(&[pool(MIB2, 6)]);
        an_unpromised_page_inside_a_promised_buffer_counts_once [] mib2(&[pool(MIB2, 4)]);
        a_driver_promises_first_and_takes_then [] mib2(&[pool(MIB2, 4)]);
        a_buffer_that_was_never_touched_gives_its_promises_back [] mib2(&[pool(MIB2, 4)]);
        a_promise_is_not_given_twice_for_one_page [] mib2(&[pool(MIB2, 4)]);
        a_refused_buffer_leaves_nothing [] mib2(&[pool(MIB2, 3)]);
        promises_go_and_come_without_a_trace [] mib2(&[pool(MIB2, 5)]);
    }
    fill {
        a_page_is_zero_whoever_had_it_before [] mib2(&[pool(MIB2, 3)]);
        a_hole_reads_as_zeroes [Faults] mib2(&[pool(MIB2, 2)]);
        contents_stay [] mib2(&[pool(MIB2, 4)]);
        populating_twice_changes_nothing [] mib2(&[pool(MIB2, 4)]);
        a_page_is_found_before_the_first_fault [] mib2(&[pool(MIB2, 3)]);
        past_the_end_is_a_range_error_even_without_pages [] mib2(&[pool(MIB2, 1)]);
        a_producer_fills_pages_in_place [] mib2(&[pool(MIB2, 3)]);
        a_short_fill_leaves_no_stale_byte [] mib2(&[pool(MIB2, 2)]);
        a_failing_producer_leaves_the_slot_as_it_was [] mib2(&[pool(MIB2, 3)]);
        a_failing_producer_without_a_promise_takes_none [] mib2(&[pool(MIB2, 3)]);
        a_producer_that_claims_too_much_has_failed [] mib2(&[pool(MIB2, 1)]);
        a_producer_that_touches_its_own_page_gets_an_error [OwnThread] mib2(&[pool(MIB2, 2)]);
        a_producer_may_touch_other_pages [Faults] mib2(&[pool(MIB2, 3)]);
        what_a_failed_producer_wrote_is_never_seen [] mib2(&[pool(MIB2, 2)]);
    }
    buffers {
        a_punch_gives_pages_and_promises_back [] mib2(&[pool(MIB2, 6)]);
        a_punched_page_reads_as_zeroes [Faults] mib2(&[pool(MIB2, 2)]);
        a_pinned_page_stays [] mib2(&[pool(MIB2, 3)]);
        each_pin_counts [] mib2(&[pool(MIB2, 1)]);
        a_sealed_buffer_keeps_every_page [] mib2(&[pool(MIB2, 3)]);
        filling_goes_on_under_a_seal [] mib2(&[pool(MIB2, 3)]);
        pin_unpin_and_close_return_the_page [] mib2(&[pool(MIB2, 2)]);
        a_buffer_with_pins_or_seals_is_not_released [Refusal] mib2(&[pool(MIB2, 2)]);
        truncate_then_touch_is_a_range_error [] mib2(&[pool(MIB2, 4)]);
        what_a_truncate_cut_off_does_not_come_back [Growth, Faults] mib2(&[pool(MIB2, 3)]);
        a_truncate_keeps_the_page_that_it_cuts [] mib2(&[pool(MIB2, 3)]);
        a_buffer_grows_up_to_its_capacity [Growth] mib2(&[pool(MIB2, 4)]);
        ranges_that_make_no_sense_are_errors [] mib2(&[pool(MIB2, 2)]);
        the_last_page_may_be_cut_by_the_end [] mib2(&[pool(MIB2, 2)]);
        a_page_held_from_outside_goes_home_later [Limbo] mib2(&[pool(MIB2, 2)]);
        a_page_held_from_outside_restores_no_promise_twice [Limbo] mib2(&[pool(MIB2, 3)]);
    }
    accounts {
        a_limit_holds_for_promises_and_pages [Accounts, Faults] mib2(&[pool(MIB2, 6)]);
        a_minimum_is_kept_free_for_its_owner [Accounts] mib2(&[pool(MIB2, 4)]);
        a_minimum_that_cannot_be_promised_is_refused [Accounts] mib2(&[pool(MIB2, 2)]);
        a_minimum_comes_back_after_every_use [Accounts] mib2(&[pool(MIB2, 3)]);
        a_minimum_comes_back_after_failures_too [Accounts] mib2(&[pool(MIB2, 3)]);
        an_account_in_use_is_not_closed [Accounts, Refusal] mib2(&[pool(MIB2, 2)]);
        a_minimum_above_the_maximum_is_refused [Accounts] mib2(&[pool(MIB2, 4)]);
    }
    supply {
        surplus_leaves_when_it_comes_back [Overcommit]
            mib2(&[pool(MIB2, 1)]).overcommit(&[(MIB2, 3)]).system(&[(MIB2, 8)]);
        surplus_that_a_promise_got_leaves_with_the_promise [Overcommit]
            mib2(&[pool(MIB2, 1)]).overcommit(&[(MIB2, 3)]).system(&[(MIB2, 8)]);
        overcommit_has_a_limit [Overcommit]
            mib2(&[pool(MIB2, 1)]).overcommit(&[(MIB2, 2)]).system(&[(MIB2, 8)]);
        a_refused_request_lets_its_surplus_go [Overcommit, FiniteSystem]
            mib2(&[pool(MIB2, 1)]).overcommit(&[(MIB2, 8)]).system(&[(MIB2, 2)]);
        a_refused_reservation_lets_its_surplus_go [Overcommit]
            mib2(&[pool(MIB2, 1)]).overcommit(&[(MIB2, 2)]).system(&[(MIB2, 8)]);
        persistent_pages_stay_when_surplus_leaves [Overcommit]
            mib2(&[pool(MIB2, 2)]).overcommit(&[(MIB2, 2)]).system(&[(MIB2, 8)]);
        a_pool_grows_and_shrinks [Resize] mib2(&[pool(MIB2, 2)]).system(&[(MIB2, 4)]);
        growing_reports_how_far_it_came [Resize, FiniteSystem] mib2(&[pool(MIB2, 2)]).system(&[(MIB2, 3)]);
        shrinking_never_breaks_a_promise [Resize] mib2(&[pool(MIB2, 4)]);
        pages_in_use_leave_a_shrunken_pool_when_they_come_back [Resize] mib2(&[pool(MIB2, 4)]);
        growing_again_keeps_what_was_to_leave [Resize] mib2(&[pool(MIB2, 4)]);
        a_large_page_becomes_many_small_ones [Demote] mib2(&[pool(GIB1, 1)]);
        a_promised_large_page_is_not_broken [Demote] mib2(&[pool(GIB1, 1)]);
    }
    reach {
        a_device_gets_only_pages_that_it_reaches [Physical]
            mib2(&[pool(MIB2, 2), pool(MIB2, 2).below(32)]);
        a_mask_that_no_page_fits_is_refused [Physical] mib2(&[pool(MIB2, 4)]);
        scarce_pages_are_left_for_those_who_need_them [Physical]
            mib2(&[pool(MIB2, 2), pool(MIB2, 2).below(32)]);
        overlapping_promises_are_all_kept [Physical]
            mib2(&[pool(MIB2, 2), pool(MIB2, 2).below(32), pool(MIB2, 1).below(28)]);
        a_bound_buffer_lies_on_its_nodes [Physical]
            mib2(&[pool(MIB2, 3), pool(MIB2, 3).on(1)]).nodes(2);
        a_bound_buffer_is_refused_where_its_node_is_short [Physical]
            mib2(&[pool(MIB2, 3), pool(MIB2, 1).on(1)]).nodes(2);
        a_preferred_node_is_only_a_preference [Physical]
            mib2(&[pool(MIB2, 3), pool(MIB2, 1).on(1)]).nodes(2);
        an_interleaved_buffer_alternates [Physical]
            mib2(&[pool(MIB2, 3), pool(MIB2, 3).on(1)]).nodes(2);
        a_whole_buffer_is_contiguous [Physical] mib2(&[pool(MIB2, 8)]);
        runs_are_contiguous_and_aligned [Physical] mib2(&[pool(MIB2, 16)]);
        a_run_that_does_not_exist_is_refused [Physical] mib2(&[pool(MIB2, 4)]);
        a_run_takes_no_page_that_a_promise_needs [Physical] mib2(&[pool(MIB2, 6)]);
        a_failing_producer_leaves_no_part_of_a_run [Physical, FilledAtBirth] mib2(&[pool(MIB2, 4)]);
        an_alignment_that_no_page_has_is_refused [Physical] mib2(&[pool(MIB2, 2)]);
        a_strict_request_gets_its_page_size_or_nothing [] mib2(&[pool(MIB2, 1)]);
        what_one_size_lacks_the_next_gives []
            mib2(&[pool(MIB2, 2)]);
        base_pages_serve_where_nothing_else_is [] mib2(&[]);
    }
    owners {
        an_owner_gets_back_what_it_left [DirtyWithinOwner] mib2(&[pool(MIB2, 2)]).magazine(2);
        nobody_else_gets_what_an_owner_left [DirtyWithinOwner] mib2(&[pool(MIB2, 3)]).magazine(3);
        kept_pages_serve_whoever_is_short [DirtyWithinOwner] mib2(&[pool(MIB2, 2)]).magazine(2);
        who_asks_for_zeroes_gets_zeroes [DirtyWithinOwner] mib2(&[pool(MIB2, 2)]).magazine(2);
        a_failed_fill_keeps_what_the_owner_kept [DirtyWithinOwner] mib2(&[pool(MIB2, 2)]).magazine(2);
        a_magazine_has_an_end [DirtyWithinOwner] mib2(&[pool(MIB2, 4)]).magazine(1);
        another_reach_does_not_mix_up_the_books [DirtyWithinOwner, Physical]
            mib2(&[pool(MIB2, 3).below(32)]).magazine(2);
    }
    threads {
        two_that_populate_the_last_page_get_the_same_one [] mib2(&[pool(MIB2, 1)]);
        different_pages_are_filled_at_the_same_time [] mib2(&[pool(MIB2, 2)]);
        a_punch_waits_for_a_fill [] mib2(&[pool(MIB2, 1)]);
        a_second_populate_waits_for_the_first_producer [] mib2(&[pool(MIB2, 1)]);
        a_failed_fill_is_taken_over_by_who_waited [] mib2(&[pool(MIB2, 1)]);
        everything_at_once_leaves_the_books_in_order [] mib2(&[pool(MIB2, 6)]);
        reservations_that_overlap_cover_each_hole_once [] mib2(&[pool(MIB2, 8)]);
        buffers_come_and_go_on_many_threads [] mib2(&[pool(MIB2, 4)]);
    }
}
