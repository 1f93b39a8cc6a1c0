#include <unistd.h>

#include <iostream>
#include <memory>
#include <system_error>

#include "base/text.hpp"
#include "launcher/cli/verbs.hpp"
#include "launcher/survey/print.hpp"
#include "launcher/survey/record.hpp"
#include "sandbox/privileges.hpp"

namespace vmlaunch::launcher::cli {

namespace {

struct HostOptions {
  bool json = false;
  std::string tree;    ///< "": the host itself
  std::string record;  ///< "": nothing is recorded
};

base::Tree open_tree(const std::string& folder) {
  try {
    base::Tree tree(folder);
    if (!tree.exists("/sys") && !tree.is_hidden("/sys")) {
      throw Failure(ExitCode::preflight,
                    "Cannot look at " + base::printable(folder.empty() ? "/" : folder) +
                        ": there is no sys in it");
    }
    return tree;
  } catch (const std::system_error& error) {
    throw Failure(ExitCode::preflight, base::printable(error.what()));
  }
}

/// `owner`: to whom the record is to belong, if not to the caller.
ExitCode record_host(const base::Tree& tree,
                     const std::string& folder,
                     const std::optional<User>& owner) {
  const survey::Record record = survey::record(tree);
  if (owner) {
    sandbox::become(owner->credentials);
  }
  survey::write_record(record, folder);
  std::cout << "recorded " << record.functions << " PCI devices in " << base::printable(folder)
            << "\n";
  for (const std::string& line : record.unseen) {
    std::cout << "not seen: " << base::printable(line) << "\n";
  }
  return ExitCode::ended;
}

ExitCode print_host(const HostOptions& options, const std::optional<std::string>& as) {
  const Identity identity = find_identity(as);
  if (as) {
    sandbox::become(identity.user.credentials);
  }
  const base::Tree tree = open_tree(options.tree);
  if (!options.record.empty()) {
    const bool is_sudo = !as && identity.privileged && identity.invoker;
    return record_host(tree, options.record, is_sudo ? std::optional(identity.user) : std::nullopt);
  }
  survey::Reader reader(tree);
  const survey::Host host = survey::look_at_host(reader);
  const survey::PciNames names;
  if (options.json) {
    std::cout
        << survey::to_json(host, names).dump(2, ' ', false, config::Json::error_handler_t::replace)
        << "\n";
    return ExitCode::ended;
  }
  std::cout << survey::to_text(host, names);
  if (options.tree.empty() && ::geteuid() != 0 && host.unseen.empty()) {
    std::cout << "\nseen without root's rights, which nothing of this needs\n";
  }
  return ExitCode::ended;
}

}  // namespace

void add_host(CLI::App& app, Choice& choice) {
  CLI::App* verb = app.add_subcommand(
      "host", "Tell what the host has for guests: devices, CPUs, memory, kernel; change nothing");
  auto options = std::make_shared<HostOptions>();
  CLI::Option* json = verb->add_flag("--json", options->json, "For programs");
  verb->add_option("--record", options->record, "Store what was seen as a tree of files")
      ->type_name("DIR")
      ->excludes(json);
  verb->add_option("--tree", options->tree, "Look at a recorded tree instead of this host")
      ->type_name("DIR");
  verb->callback([&choice, options] {
    choice.command = [&choice, options] { return print_host(*options, choice.as); };
  });
}

}  // namespace vmlaunch::launcher::cli
