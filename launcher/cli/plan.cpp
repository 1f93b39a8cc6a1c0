#include "launcher/plan/plan.hpp"

#include <iostream>
#include <memory>

#include "launcher/cli/verbs.hpp"
#include "launcher/config/effective.hpp"

namespace vmlaunch::launcher::cli {

namespace {

struct PlanOptions {
  NamedConfig named;
  bool json = false;
  bool effective = false;
};

ExitCode print_plan(const PlanOptions& options, const std::optional<std::string>& as) {
  const run::Prepared prepared = look_at(options.named, as);
  if (options.effective) {
    std::cout << config::effective(prepared.spec)
                     .dump(2, ' ', false, config::Json::error_handler_t::replace)
              << "\n";
  } else if (options.json) {
    std::cout
        << plan::to_json(prepared.plan).dump(2, ' ', false, config::Json::error_handler_t::replace)
        << "\n";
  } else {
    std::cout << plan::to_text(prepared.plan);
  }
  return ExitCode::ended;
}

}  // namespace

void add_plan(CLI::App& app, Choice& choice) {
  CLI::App* verb = app.add_subcommand(
      "plan", "Print what a run would do, and the exact QEMU command; do nothing");
  auto options = std::make_shared<PlanOptions>();
  add_config(*verb, options->named);
  CLI::Option* json = verb->add_flag("--json", options->json, "For programs");
  verb->add_flag("--effective", options->effective, "Print the config with every default filled in")
      ->excludes(json);
  verb->callback([&choice, options] {
    choice.command = [&choice, options] { return print_plan(*options, choice.as); };
  });
}

}  // namespace vmlaunch::launcher::cli
