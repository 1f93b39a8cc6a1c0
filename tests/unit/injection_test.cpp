// No text of a config becomes an option of QEMU's, or a part of one.

#include <algorithm>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "launcher/plan/plan.hpp"
#include "tests/support/pci_tree.hpp"
#include "tests/unit/plan_of.hpp"

namespace vmlaunch::launcher::plan {
namespace {

using namespace tests;

/// Every text that a config may have, but for those that name a link or a driver of the host.
const std::string kTexts = R"({
  "name": "vm", "cpu": { "model": "max", "hyperv": { "vendor_id": "id" } },
  "kernel": "/k", "initrd": "/i", "append": "a",
  "firmware": { "uefi": true, "vars": "/v", "code": "/c", "template": "/t" },
  "disks": [ { "path": "/d", "format": "qcow2", "serial": "s", "iothread": true,
               "backing": [ { "path": "/b", "format": "raw" } ] },
             { "path": "/e", "format": "raw", "bus": "virtio-scsi" },
             { "path": "/f", "type": "cdrom" } ],
  "network": [ { "user": { "forwards": [ "tcp:127.0.0.1:2222:22" ] }, "mac": "52:54:00:00:00:01" } ],
  "pci": [ { "device": "01:00.0", "functions": "all", "expect": "10de:1ba1", "rom": "/r" } ],
  "display": { "vnc": "127.0.0.1:5901" },
  "audio": { "backend": "pa", "server": "/a" },
  "serial": { "file": "/s" },
  "qemu": { "binary": "/q", "extra_args": [ "-device", "edu" ] },
  "stop": { "timeout": "60s" } })";

survey::Survey survey_with(const std::string& sound_server) {
  vmlaunch::tests::PciTree tree;
  vmlaunch::tests::add_laptop(tree);
  survey::Survey survey = host();
  survey.pci = survey::look_at_pci(tree.tree());
  survey.sound_servers = {"/a", sound_server};
  return survey;
}

Plan plan_with(const Json& config, const std::string& text) {
  return make_plan(load(config.dump()), survey_with(text), {true, kRoot, false}, Authority::root);
}

void for_each_text(Json& json, const std::function<void(Json&)>& visit) {
  if (json.is_string()) {
    visit(json);
  }
  if (json.is_structured()) {
    for (Json& value : json) {
      for_each_text(value, visit);
    }
  }
}

std::set<std::string> options_of(const Plan& plan) {
  std::set<std::string> options;
  for (const std::string& argument : plan.qemu.arguments) {
    if (argument.starts_with('-')) {
      options.insert(argument);
    }
  }
  return options;
}

/// What a text became that QEMU would take for more than a value; "" for none.
std::string injected(const Plan& plan, const std::set<std::string>& options) {
  std::string before;
  for (const std::string& argument : plan.qemu.arguments) {
    // Whole values: the guest's command line, a list of the CPU's features, what root adds.
    const bool is_whole = before == "-append" || before == "-cpu" || argument.starts_with("edu");
    if (!is_whole && argument.starts_with('-') && !options.contains(argument)) {
      return argument;
    }
    if (argument.find("injected") != std::string::npos && !is_whole) {
      const Json json = Json::parse(argument, nullptr, false);
      const bool is_key = std::any_of(json.items().begin(), json.items().end(), [](const auto& it) {
        return it.key().find("injected") != std::string::npos;
      });
      if (!json.is_object() || is_key) {
        return argument;
      }
    }
    before = argument;
  }
  return "";
}

TEST_CASE("injection: no text of a config becomes an option, or a part of one", "[plan]") {
  Json config = Json::parse(kTexts);
  const std::set<std::string> options = options_of(plan_with(config, ""));
  unsigned accepted = 0;
  unsigned refused = 0;
  const auto attempt = [&](const std::string& text) {
    std::optional<Plan> plan;
    try {
      plan = plan_with(config, text);
    } catch (const Failure&) {
      ++refused;
      return;
    }
    INFO(text);
    CHECK(injected(*plan, options).empty());
    ++accepted;
  };
  for_each_text(config, [&](Json& text) {
    const std::string whole = text;
    for (const char* more : {",injected=on",
                             ",,injected=on",
                             "\n-injected",
                             "\",\"injected\":\"on",
                             "\\,injected=on",
                             ";injected",
                             "'injected"}) {
      text = whole + more;
      attempt(text);
    }
    for (const char* other : {"-injected", "--injected=on"}) {
      text = other;
      attempt(text);
    }
    text = whole;
  });
  CHECK(accepted > 90);
  CHECK(refused > 60);
}

}  // namespace
}  // namespace vmlaunch::launcher::plan
