#include <iostream>
#include <memory>

#include "launcher/cli/verbs.hpp"
#include "launcher/run/guardian_link.hpp"

namespace vmlaunch::launcher::cli {

namespace {

struct CheckOptions {
  std::string file;
  bool json = false;
};

/// What a run would stop at, or nothing.
struct Result {
  ExitCode code = ExitCode::ended;
  std::string problem;
  std::vector<std::string> warnings;
};

Result check(const std::string& file, const std::optional<std::string>& as) {
  Result result;
  try {
    const Identity identity = find_identity(as);
    run::GuardianProcess guardian(identity);
    const Trusted trusted = open_and_become(file, identity);
    const run::Prepared prepared = run::prepare(trusted.config, identity, trusted.authority);
    result.warnings = prepared.plan.warnings;
    const base::UniqueFd control = guardian.take_control();
    run::check_with_guardian(trusted.config, prepared.plan, trusted.authority, control.get());
  } catch (const Failure& failure) {
    result.code = failure.code();
    result.problem = failure.what();
  }
  return result;
}

ExitCode print_check(const CheckOptions& options, const std::optional<std::string>& as) {
  const Result result = check(options.file, as);
  if (options.json) {
    const config::Json json = {{"code", static_cast<int>(result.code)},
                               {"problem", result.problem},
                               {"warnings", result.warnings}};
    std::cout << json.dump(2, ' ', false, config::Json::error_handler_t::replace) << "\n";
    return result.code;
  }
  for (const std::string& warning : result.warnings) {
    std::cout << "warning: " << warning << "\n";
  }
  std::cout << (result.code == ExitCode::ended ? "passed: a run could start" : result.problem)
            << "\n";
  return result.code;
}

}  // namespace

void add_check(CLI::App& app, Choice& choice) {
  CLI::App* verb = app.add_subcommand(
      "check", "Tell whether a run could start; do nothing. Exits with the code of that run");
  auto options = std::make_shared<CheckOptions>();
  verb->add_option("FILE", options->file, "The config")->required();
  verb->add_flag("--json", options->json, "For programs");
  verb->callback([&choice, options] {
    choice.command = [&choice, options] { return print_check(*options, choice.as); };
  });
}

}  // namespace vmlaunch::launcher::cli
