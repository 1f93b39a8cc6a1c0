#include <iostream>
#include <memory>

#include "launcher/cli/verbs.hpp"
#include "launcher/run/guardian_link.hpp"
#include "launcher/run/guardian_unit.hpp"

namespace vmlaunch::launcher::cli {

namespace {

struct CheckOptions {
  NamedConfig named;
  bool json = false;
};

/// What a run would stop at, or nothing.
struct Result {
  ExitCode code = ExitCode::ended;
  std::string problem;
  std::vector<std::string> warnings;
  std::vector<plan::Card> cards;  ///< those that would be passed, with how each is reset
};

/// For the guardian to look at files, on slow disks too.
constexpr std::chrono::seconds kSealDeadline{30};

/// Throws the Failure that the sealing of a run's plan would end with.
void check_sealing(const Trusted& trusted, const plan::Plan& plan, run::GuardianProcess& guardian) {
  const run::OpenFiles opened = run::open_files(plan, trusted.authority, run::Making::pretended);
  const run::Sealing sealing = run::sealing_of(trusted.config, plan, opened);
  const guardian::Reply reply = guardian.ask(sealing.request, sealing.fds, kSealDeadline);
  run::check_facts(sealing.request.plan, std::get<guardian::Sealed>(reply));
}

Result check(const NamedConfig& named, const std::optional<std::string>& as) {
  Result result;
  try {
    const Identity identity = find_identity(as);
    run::GuardianProcess guardian(identity, run::GuardianProcess::Kind::child);
    run::Known known = run::find_known(run::will_start_unit(identity));
    const Trusted trusted = open_and_become(named.file, identity);
    config::VmSpec spec = load(named, trusted.config);
    result.warnings = guardian.begin({spec.name, true});
    const plan::Plan plan =
        run::prepare(std::move(spec), identity, trusted.authority, std::move(known)).plan;
    result.warnings.insert(result.warnings.end(), plan.warnings.begin(), plan.warnings.end());
    result.cards = plan.passthrough.cards;
    check_sealing(trusted, plan, guardian);
  } catch (const Failure& failure) {
    result.code = failure.code();
    result.problem = failure.what();
  }
  return result;
}

ExitCode print_check(const CheckOptions& options, const std::optional<std::string>& as) {
  const Result result = check(options.named, as);
  if (options.json) {
    const config::Json json = {{"code", static_cast<int>(result.code)},
                               {"problem", result.problem},
                               {"warnings", result.warnings},
                               {"resets", resets_json(result.cards)}};
    std::cout << json.dump(2, ' ', false, config::Json::error_handler_t::replace) << "\n";
    return result.code;
  }
  for (const std::string& warning : result.warnings) {
    std::cout << "warning: " << warning << "\n";
  }
  for (const plan::Card& card : result.cards) {
    std::cout << "reset: " << describe(card) << "\n";
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
  add_config(*verb, options->named);
  verb->add_flag("--json", options->json, "For programs");
  verb->callback([&choice, options] {
    choice.command = [&choice, options] { return print_check(*options, choice.as); };
  });
}

}  // namespace vmlaunch::launcher::cli
