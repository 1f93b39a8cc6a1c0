#include "launcher/plan/setup.hpp"

#include <filesystem>
#include <iostream>
#include <memory>

#include "launcher/cli/verbs.hpp"
#include "sandbox/privileges.hpp"

namespace vmlaunch::launcher::cli {

namespace {

struct SetupOptions {
  std::string file;
  bool json = false;
};

ExitCode print_setup(const SetupOptions& options, const std::optional<std::string>& as) {
  const Identity identity = find_identity(as);
  if (!identity.invoker) {
    throw Failure(ExitCode::usage,
                  "Cannot tell who is to run the VM without root; type: vmlaunch --as USER setup "
                  "FILE");
  }
  if (identity.privileged) {
    sandbox::become(identity.user.credentials);
  }
  const run::OpenConfig config = run::open_config(options.file);
  const config::VmSpec spec = run::load_config(config);
  const plan::Setup setup = plan::make_setup(spec,
                                             survey::look("", spec, true),
                                             identity.user,
                                             std::filesystem::read_symlink("/proc/self/exe"));
  std::cout << (options.json ? plan::to_json(setup).dump(
                                   2, ' ', false, config::Json::error_handler_t::replace) +
                                   "\n"
                             : plan::to_text(setup));
  return ExitCode::ended;
}

}  // namespace

void add_setup(CLI::App& app, Choice& choice) {
  CLI::App* verb = app.add_subcommand(
      "setup",
      "Print the files by which an administrator lets a user run a VM without root; write none");
  auto options = std::make_shared<SetupOptions>();
  verb->add_option("FILE", options->file, "The config")->required();
  verb->add_flag("--json", options->json, "For programs");
  verb->callback([&choice, options] {
    choice.command = [&choice, options] { return print_setup(*options, choice.as); };
  });
}

}  // namespace vmlaunch::launcher::cli
