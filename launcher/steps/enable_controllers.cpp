#include <linux/capability.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <ctime>
#include <memory>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "base/text.hpp"
#include "launcher/exit_code.hpp"
#include "launcher/steps/steps.hpp"
#include "launcher/survey/cgroup.hpp"

namespace vmlaunch::launcher::steps {

namespace {

/// Both are threaded ones: a VM's threads may be in several cgroups.
constexpr std::array kControllers = {"cpu", "cpuset"};

std::vector<std::string> words(const std::string& text) {
  std::vector<std::string> found = base::split(text, ' ');
  std::erase(found, "");
  return found;
}

bool has(const std::vector<std::string>& list, const std::string& word) {
  return std::find(list.begin(), list.end(), word) != list.end();
}

/// "+cpu +cpuset"
std::string order(const char* sign, const std::vector<std::string>& controllers) {
  std::vector<std::string> words;
  words.reserve(controllers.size());
  for (const std::string& name : controllers) {
    words.push_back(sign + name);
  }
  return base::join(words, " ");
}

/// Turns on the controllers of CPU time and of CPUs for the cgroups below a VM's parent.
class EnableControllers final : public Change {
 public:
  EnableControllers(bool in_unit, unsigned weight) : in_unit_(in_unit), weight_(weight) {}

  const char* kind() const override { return "enable-controllers"; }
  std::vector<int> capabilities() const override { return {CAP_DAC_OVERRIDE}; }

  Step read(Fields& fields) const override {
    const bool in_unit = fields.boolean("in_unit");
    const auto weight = static_cast<unsigned>(fields.number("weight", 1, kMostWeight));
    return in_unit ? enable_controllers_of_unit(weight) : enable_controllers();
  }
  void write(Json& json) const override {
    json.update({{"in_unit", in_unit_}, {"weight", weight_}});
  }

  std::string describe() const override {
    return std::string("turn on the cgroup controllers cpu and cpuset ") +
           (in_unit_ ? "for the guardian's unit, of weight " + std::to_string(weight_)
                     : "for all cgroups below the root");
  }
  std::string describe_undo() const override {
    return in_unit_ ? "gone with the unit" : "those turned off that were off";
  }
  std::string object() const override {
    return in_unit_ ? "cgroup controllers of the unit" : "cgroup controllers";
  }

  // A unit is one VM's, and the root everybody's.
  bool shared() const override { return !in_unit_; }

  Json capture(const Host& host, const Context& /*context*/) const override {
    const std::string parent = cgroup_parent(host);
    const std::vector<std::string> on =
        words(host.tree().read(parent + "/cgroup.subtree_control").value_or(""));
    std::vector<std::string> off;
    for (const char* name : kControllers) {
      if (!has(on, name)) {
        off.emplace_back(name);
      }
    }
    return {{"path", wire_text(parent)},
            {"off", off},
            {"cgroups", wire_texts(cgroups_in(host, parent))}};
  }

  void apply(Host& host,
             const Context& /*context*/,
             const Json& /*found*/,
             const Note& /*note*/) const override {
    const std::string parent = cgroup_parent(host);
    if (in_unit_) {
      host.demand_controllers(parent.substr(parent.rfind('/') + 1), weight_, online_cpus(host));
      await_controllers(host, parent);
      leave(host, parent);
    }
    host.write(parent + "/cgroup.subtree_control",
               order("+", {kControllers.begin(), kControllers.end()}));
  }

  void undo(Host& host, const Json& found) const override {
    Fields fields(found);
    const std::string path = fields.text("path");
    std::vector<std::string> off = fields.texts("off");
    for (const std::string& name : off) {
      if (std::find(kControllers.begin(), kControllers.end(), name) == kControllers.end()) {
        throw FormError("not a controller that is turned on");
      }
    }
    if (in_unit_ || off.empty() || !host.tree().exists(path)) {
      return;
    }
    require_unused(host, path, fields.texts("cgroups"), order("", off));
    try {
      host.write(path + "/cgroup.subtree_control", order("-", off));
    } catch (const std::system_error& error) {
      if (error.code().value() != EBUSY) {
        throw;
      }
      throw ChangedMeanwhile(
          "the controllers " + order("", off) + " of " + path +
          ": a cgroup below gives them on to others; to see which, type: grep . " + path +
          "/*/cgroup.subtree_control");
    }
  }

 private:
  /// Those of VMs come and go, and use them only as long as their own run has them on.
  static std::vector<std::string> cgroups_in(const Host& host, const std::string& path) {
    std::vector<std::string> cgroups = host.tree().list(path);
    std::erase_if(cgroups, [&](const std::string& name) {
      return name.starts_with(kCgroupPrefix) ||
             !host.tree().exists(path + "/" + name + "/cgroup.procs");
    });
    return cgroups;
  }

  /// A cgroup that came since may have been given a weight, or CPUs, which would be lost.
  static void require_unused(const Host& host,
                             const std::string& path,
                             const std::vector<std::string>& before,
                             const std::string& controllers) {
    for (const std::string& name : cgroups_in(host, path)) {
      if (!has(before, name)) {
        throw ChangedMeanwhile(
            "the controllers " + controllers + " of " + path + ": the cgroup " +
            base::printable(name) + " came since, and may use them; once it " +
            "is gone, type: echo " +
            base::shell_quote("-" + base::join(base::split(controllers, ' '), " -")) + " > " +
            path + "/cgroup.subtree_control");
      }
    }
  }

  /// systemd turns them on some time after it was asked.
  static void await_controllers(const Host& host, const std::string& parent) {
    const auto until = std::chrono::steady_clock::now() + host.deadlines().systemd;
    for (;;) {
      const std::vector<std::string> there =
          words(host.tree().read(parent + "/cgroup.controllers").value_or(""));
      if (std::all_of(kControllers.begin(), kControllers.end(), [&](const char* name) {
            return has(there, name);
          })) {
        return;
      }
      if (std::chrono::steady_clock::now() > until) {
        throw Failure(ExitCode::preflight,
                      "Cannot turn on the cgroup controllers cpu and cpuset: systemd does not give "
                      "them to " +
                          parent + "; type: cat " +
                          base::shell_quote(parent + "/cgroup.controllers"));
      }
      const timespec pause{0, 5'000'000};
      ::nanosleep(&pause, nullptr);
    }
  }

  /// A cgroup that gives controllers on has no processes of its own
  /// (Documentation/admin-guide/cgroup-v2.rst, "No Internal Process Constraint").
  static void leave(Host& host, const std::string& parent) {
    const std::string own = parent + "/" + survey::kGuardianCgroup;
    if (!host.tree().exists(own)) {
      host.make_folder(own);
    }
    host.write(own + "/cgroup.procs", std::to_string(::getpid()));
  }

  bool in_unit_;
  unsigned weight_;  ///< of the unit
};

}  // namespace

Step enable_controllers() {
  return Step(std::make_shared<EnableControllers>(false, kUsualWeight));
}

Step enable_controllers_of_unit(unsigned weight) {
  return Step(std::make_shared<EnableControllers>(true, weight));
}

}  // namespace vmlaunch::launcher::steps
