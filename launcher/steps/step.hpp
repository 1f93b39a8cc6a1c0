#pragma once

#include <string>
#include <type_traits>
#include <variant>

#include "launcher/steps/bind_driver.hpp"
#include "launcher/steps/keep_awake.hpp"
#include "launcher/steps/load_vfio.hpp"
#include "launcher/steps/make_cgroup.hpp"
#include "launcher/steps/override_driver.hpp"
#include "launcher/steps/own_node.hpp"
#include "launcher/steps/start_qemu.hpp"

/// Reversible changes of the host. Each kind is a type of its own with the same members:
///
/// - kKind: its name; kCapability: the one that a guardian needs to apply or undo it;
/// - read, write: its parameters as JSON, strictly;
/// - describe, describe_undo: one line each, the same in plan, log and error;
/// - object: what it changes; once a call about it is stuck, nothing else touches it;
/// - check: can it work? Asked for all steps before any is applied. Throws Failure;
/// - capture: what undo needs to know, written to the journal before apply;
/// - apply: throws Failure, std::system_error or Stuck; may be cut off anywhere;
/// - undo: from what was captured alone, in any process, any number of times, after half an apply
///   too. Throws ChangedMeanwhile for a value that is neither what we wrote nor what we found.
namespace vmlaunch::launcher::steps {

using Step =
    std::variant<MakeCgroup, LoadVfio, KeepAwake, OverrideDriver, BindDriver, OwnNode, StartQemu>;

[[nodiscard]] Json to_json(const Step& step);

/// Throws FormError for anything that to_json did not write.
[[nodiscard]] Step read_step(const Json& json);

[[nodiscard]] std::string describe(const Step& step);
[[nodiscard]] std::string describe_undo(const Step& step);
[[nodiscard]] std::string object_of(const Step& step);
[[nodiscard]] int capability_of(const Step& step);

}  // namespace vmlaunch::launcher::steps
