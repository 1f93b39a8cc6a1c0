#include "launcher/steps/make_cgroup.hpp"

#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "base/text.hpp"
#include "launcher/config/vm_spec.hpp"
#include "launcher/survey/cgroup.hpp"

namespace vmlaunch::launcher::steps {

namespace {

std::string parent_of(const Host& host) {
  const auto parent = survey::find_cgroup_parent(host.tree(), ::geteuid() == 0);
  if (!parent) {
    throw Failure(ExitCode::preflight,
                  "Cannot make a cgroup: no cgroup2 is mounted that may be written; type: grep "
                  "cgroup2 /proc/mounts");
  }
  return *parent;
}

}  // namespace

std::string cgroup_of(const Host& host, const std::string& vm) {
  return parent_of(host) + "/vmlaunch-" + vm;
}

MakeCgroup MakeCgroup::read(Fields& fields) {
  const std::string vm = fields.text("vm");
  if (!config::is_vm_name(vm)) {
    throw FormError("not a VM's name");
  }
  return {vm};
}

void MakeCgroup::write(Json& json) const {
  json["vm"] = vm;
}

std::string MakeCgroup::describe() const {
  return "make the cgroup vmlaunch-" + vm;
}

std::string MakeCgroup::describe_undo() const {
  return "removed";
}

std::string MakeCgroup::object() const {
  return "cgroup";
}

void MakeCgroup::check(const Host& host) const {
  const std::string path = cgroup_of(host, vm);
  if (const auto events = host.tree().read(path + "/cgroup.events");
      events && events->find("populated 0") == std::string::npos) {
    throw Failure(ExitCode::preflight,
                  "Cannot use the cgroup " + path + ": processes live in it; type: cat " +
                      base::shell_quote(path + "/cgroup.procs"));
  }
}

Json MakeCgroup::capture(const Host& host, const Context& /*context*/) const {
  const std::string path = cgroup_of(host, vm);
  return {{"path", wire_text(path)}, {"made", !host.tree().exists(path)}};
}

void MakeCgroup::apply(Host& host,
                       const Context& /*context*/,
                       const Json& found,
                       const Note& /*note*/) const {
  if (found.at("made").get<bool>()) {
    host.make_folder(Fields(found).text("path"));
  }
}

void MakeCgroup::undo(Host& host, const Json& found) const {
  Fields fields(found);
  const std::string path = fields.text("path");
  if (!fields.boolean("made") || !host.tree().exists(path)) {
    return;
  }
  try {
    host.remove_folder(path);
  } catch (const std::system_error& error) {
    if (error.code().value() != EBUSY) {
      throw;
    }
    throw ChangedMeanwhile("the cgroup " + path + " is used by somebody else: type: cat " +
                           base::shell_quote(path + "/cgroup.procs"));
  }
}

}  // namespace vmlaunch::launcher::steps
