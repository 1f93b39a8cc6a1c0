#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/text.hpp"
#include "launcher/plan/plan.hpp"
#include "tests/support/catch.hpp"
#include "tests/unit/child.hpp"

namespace vmlaunch::launcher::plan::tests {

using config::Json;
using config::VmSpec;
using vmlaunch::tests::refusal;

inline VmSpec load(const std::string& text, const std::string& path = "/vms/win10.json") {
  return config::load(config::Document(path, text), path);
}

inline const User kAnna{"anna", {1000, 1001, {1001, 27, 106}}};
inline const User kBerta{"berta", {2000, 2001, {2001, 106}}};
inline const User kRoot{"root", {0, 0, {0}}};
inline const User kUnused{"uid 1880004711", {1880004711, 1880004711, {}}};

inline const Identity kPlain{false, kAnna, true};
inline const Identity kSudo{true, kAnna, true};
inline const Identity kPureRoot{true, kUnused, false};

inline survey::Survey host() {
  survey::Survey survey;
  survey.cgroup = true;
  survey.kvm.node = true;
  survey.kvm.usable_by_caller = true;
  survey.kvm.vendor_module = true;
  survey.uefi = survey::Uefi{"/usr/share/code.fd", "/usr/share/vars.fd"};
  return survey;
}

inline survey::Survey without_kvm() {
  survey::Survey survey = host();
  survey.kvm = {};
  return survey;
}

inline Plan plan_of(const std::string& config,
                    const survey::Survey& survey = host(),
                    const Identity& identity = kPlain) {
  return make_plan(load(config), survey, identity, Authority::user);
}

/// The argument that follows `option`, wherever it stands.
inline std::vector<std::string> values_of(const Plan& plan, const std::string& option) {
  std::vector<std::string> values;
  const std::vector<std::string>& arguments = plan.qemu.arguments;
  for (std::size_t i = 0; i + 1 < arguments.size(); ++i) {
    if (arguments[i] == option) {
      values.push_back(arguments[i + 1]);
    }
  }
  return values;
}

inline std::string value_of(const Plan& plan, const std::string& option) {
  return base::join(values_of(plan, option), " | ");
}

/// The slot of each device that has one.
inline std::map<std::string, std::string> slots(const Plan& plan) {
  std::map<std::string, std::string> slots;
  for (const std::string& value : values_of(plan, "-device")) {
    const Json device = Json::parse(value);
    if (device.contains("addr")) {
      slots[device.at("id")] = device.at("addr");
    }
  }
  return slots;
}

/// The whole of a FileUse in a line.
inline std::string line(const FileUse& file) {
  return std::to_string(file.fd) + " " + file.purpose + " " + file.path + " (" +
         to_string(file.access) + ", made: " + to_string(file.create) +
         (file.template_path.empty() ? "" : " " + file.template_path) + ")" +
         (file.reopened ? " reopened" : "") + (file.is_qcow2 ? " qcow2" : "") +
         (file.direct ? " direct" : "");
}

}  // namespace vmlaunch::launcher::plan::tests
