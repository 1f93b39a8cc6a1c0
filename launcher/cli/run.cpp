#include "launcher/run/run.hpp"

#include <csignal>
#include <memory>
#include <utility>

#include "launcher/cli/verbs.hpp"
#include "sandbox/privileges.hpp"

namespace vmlaunch::launcher::cli {

namespace {

ExitCode run_file(const NamedConfig& named, const std::optional<std::string>& as) {
  // Reading or setting the terminal from the background must fail, not stop us.
  for (const int signal : {SIGTTIN, SIGTTOU}) {
    static_cast<void>(std::signal(signal, SIG_IGN));
  }
  const Identity identity = find_identity(as);
  run::Console console;
  run::Terminal terminal;
  run::GuardianProcess guardian(identity, run::GuardianProcess::Kind::keeper);
  run::Known known = run::find_known(guardian.is_unit());
  Trusted trusted = open_and_become(named.file, identity);
  config::VmSpec spec = load(named, trusted.config);
  const auto say = [&](const std::string& text) { console.say(text); };
  for (const std::string& line : guardian.begin({spec.name, false, spec.force_tainted}, say)) {
    console.warn(line);
  }
  run::Prepared prepared =
      run::prepare(std::move(spec), identity, trusted.authority, std::move(known));
  for (const std::string& warning : prepared.plan.warnings) {
    console.warn(warning);
  }
  run::hold_stop_signals();
  run::OpenFiles files = run::open_files(prepared.plan, trusted.authority);
  console.say("planned: VM " + prepared.plan.name + ", " + prepared.plan.accel);
  return run::run_vm(
      {std::move(trusted.config), std::move(prepared), std::move(files), std::move(guardian)},
      terminal,
      console);
}

}  // namespace

void add_run(CLI::App& app, Choice& choice) {
  CLI::App* verb = app.add_subcommand("run", "Start a VM and stay with it until it ends");
  auto named = std::make_shared<NamedConfig>();
  add_config(*verb, *named);
  verb->callback([&choice, named] {
    choice.command = [&choice, named] { return run_file(*named, choice.as); };
  });
}

}  // namespace vmlaunch::launcher::cli
