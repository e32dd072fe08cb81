"""Every known way round the gate, and the tests that try it. Another class is another line here, and a test."""

from __future__ import annotations

CLASSES: dict[str, tuple[str, ...]] = {
    "direct call of an implementation": (
        "tests/escape/test_direct_calls.py::test_outside_the_gate_it_refuses_before_it_does_anything",
        "tests/escape/test_direct_calls.py::test_under_the_admission_of_another_it_refuses_too",
        "tests/escape/test_direct_calls.py::test_an_admission_ends_with_its_call_and_is_no_other_threads",
    ),
    "direct call of a process, engine, network or model": (
        "tests/escape/test_reach.py::test_no_module_takes_a_power_that_the_table_does_not_give",
        "tests/escape/test_reach.py::test_each_way_of_taking_a_power_is_seen",
        "tests/escape/test_reach.py::test_nobody_reaches_a_model",
    ),
    "unregistered activity": (
        "tests/kernel/test_gate.py::test_refusals_are_final_events_and_run_nothing",
        "tests/escape/test_direct_calls.py::test_a_worker_registers_one_dynamic_activity_and_nothing_else",
        "tests/escape/test_direct_calls.py::test_every_worker_that_runs_activities_has_the_gate",
    ),
    "alias, case, whitespace or Unicode variant": (
        "tests/escape/test_bypasses.py::test_no_other_spelling_of_a_name_is_that_name",
        "tests/escape/test_bypasses.py::test_no_other_spelling_of_a_workflow_is_that_workflow",
        "tests/kernel/test_admission.py::test_identifiers_are_byte_equal_or_unknown",
    ),
    "import before policy load": (
        "tests/escape/test_direct_calls.py::test_importing_every_module_does_nothing",
    ),
    "foreign or forged execution": (
        "tests/escape/test_bypasses.py::test_a_forged_child_has_no_parent_of_ours",
        "tests/kernel/test_gate_identity.py::test_headers_arguments_and_ids_name_nobody",
        "tests/kernel/test_gate_identity.py::test_a_hostile_tenant_reaches_nothing_of_another",
    ),
    "reset execution": (
        "tests/kernel/test_gate.py::test_a_reset_run_and_everything_after_it_is_refused",
        "tests/escape/test_bypasses.py::test_the_run_before_a_reset_begins_nothing_more",
        "tests/escape/test_bypasses.py::test_a_batch_of_resets_and_terminations_leaves_the_sessions_fenced",
    ),
    "activity without a workflow, local activity": (
        "tests/escape/test_bypasses.py::test_an_activity_that_no_run_of_ours_scheduled_is_nobodys",
        "tests/escape/test_bypasses.py::test_the_server_of_this_version_starts_no_activity_by_itself",
    ),
    "schedule without an owner": ("tests/kernel/test_gate_kernel.py::test_a_schedule_without_an_owner_starts_nothing",),
    "signal-with-start": ("tests/escape/test_bypasses.py::test_signal_with_start_is_a_start_like_any_other",),
    "batch": ("tests/escape/test_bypasses.py::test_a_batch_of_resets_and_terminations_leaves_the_sessions_fenced",),
    "expired, revoked or borrowed lease": (
        "tests/kernel/test_gate_kernel.py::test_a_session_acts_under_a_lease_that_is_issued_again_after_a_wait",
        "tests/kernel/test_gate_kernel.py::test_a_revoked_lease_never_comes_back",
        "tests/schemas/test_identity.py::test_of_several_broken_facts_the_first_decides",
        "tests/record/test_leases.py::test_of_fifty_reissues_one_wins_and_all_adopt_it",
    ),
    "state carried across leases or ids": ("tests/escape/test_bypasses.py::test_an_id_that_is_used_again_is_another_session",),
    "budget race from 50 concurrent tasks": (
        "tests/record/test_ledger.py::test_fifty_sessions_race_one_budget",
        "tests/record/test_ledger.py::test_processes_race_one_budget",
    ),
    "reserve never settled": (
        "tests/record/test_ledger.py::test_closing_a_session_voids_what_it_holds_and_gives_the_rest_back",
        "tests/record/test_ledger.py::test_a_reservation_outlives_its_time_by_the_skew_of_clocks",
        "tests/simulator/test_simulator.py::test_no_seed_breaks_an_invariant",
    ),
    "mode flags, shadow and canary": (
        "tests/kernel/test_gate_kernel.py::test_a_candidate_policy_is_watched_or_enforced",
        "tests/kernel/test_rollout.py::test_shadow_enforces_nowhere_and_full_everywhere",
    ),
    "permissive environment variable": ("tests/escape/test_bypasses.py::test_no_variable_and_no_mode_opens_the_gate",),
    "widened arguments, changed digest": (
        "tests/kernel/test_gate_release.py::test_anything_else_is_refused",
        "tests/forge/test_release.py::test_nothing_but_the_approved_action_is_delivered",
        "tests/kernel/test_gate_kernel.py::test_a_capability_that_is_not_what_the_catalogue_lists_is_refused",
        "tests/kernel/test_limits.py::test_nothing_is_clamped",
    ),
    "replayed, expired or widened approval": (
        "tests/control/test_approving.py::test_an_approval_is_redeemed_once",
        "tests/escape/test_bypasses.py::test_an_approval_whose_time_is_over_delivers_nothing",
    ),
    "approval of another tenant": ("tests/escape/test_bypasses.py::test_another_tenants_approval_is_none",),
    "workflow reset replaying an approval": ("tests/escape/test_bypasses.py::test_a_reset_run_cannot_use_the_approval_again",),
    "target changed after approval": (
        "tests/forge/test_release.py::test_a_target_that_moved_elsewhere_is_refused_and_stays_as_it_is",
        "tests/record/test_pushing.py::test_target_that_moves_between_look_and_push_is_refused",
    ),
    "switch or lease pulled between redeem and push": (
        "tests/kernel/test_gate_kernel.py::test_right_before_the_push_lease_and_switches_are_read_again",
        "tests/kernel/test_gate_kernel.py::test_a_switch_that_falls_between_the_check_and_the_effect_stops_it",
    ),
    "path tricks to another tier": (
        "tests/policy/test_facts.py::test_git_names_in_any_spelling",
        "tests/policy/test_facts.py::test_collisions_by_case_form_and_folder",
        "tests/policy/test_review.py::test_each_attack_is_denied_for_its_own_reason",
    ),
    "breaker raced open": (
        "tests/kernel/test_gate_kernel.py::test_an_outage_opens_the_breaker_of_its_server_and_one_probe_closes_it",
        "tests/record/test_breakers.py::test_of_four_processes_that_share_an_outage_exactly_one_gets_the_probe",
    ),
    "audit log truncated": (
        "tests/record/test_chain.py::test_removed_events_are_found",
        "tests/record/test_checkpoints.py::test_a_lost_tail_is_found",
        "tests/record/test_chain.py::test_the_database_itself_refuses_changes",
    ),
    "disk full": ("tests/escape/test_bypasses.py::test_a_full_disk_runs_nothing",),
    "clock moved": (
        "tests/simulator/test_simulator.py::test_no_seed_breaks_an_invariant",
        "tests/record/test_ledger.py::test_a_reservation_outlives_its_time_by_the_skew_of_clocks",
    ),
    "policy engine down, slow, empty or broken": (
        "tests/escape/test_bypasses.py::test_an_engine_that_does_not_say_yes_says_no",
        "tests/kernel/test_gate.py::test_while_opa_is_down_nothing_runs_and_then_it_goes_on",
    ),
    "undecodable signal": ("tests/workflows/test_doors.py::test_malformed_signals_are_recorded_and_the_session_goes_on",),
    "undecodable argument": ("tests/kernel/test_gate.py::test_refusals_are_final_events_and_run_nothing",),
}  # fmt: skip

NOT_YET = {
    "tool aliasing, same name on another server": "there are no connectors yet",
    "model path instead of tool path": "there is no model capability yet",
    "token reuse, other arguments under one token": "no token crosses a process boundary yet",
    "read-secret-then-post sequences": "there are no sequence rules and no tools that post yet",
}
"""Classes that nothing of the present could be tried on."""
