#include <fcntl.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <exception>
#include <iostream>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "launcher/cli/verbs.hpp"

namespace vmlaunch::launcher::cli {

namespace {

constexpr auto kVerbs = {add_run,
                         add_plan,
                         add_check,
                         add_setup,
                         add_recover,
                         add_host,
                         add_device,
                         add_isolation,
                         add_guardian};

void print_error(const std::string& text) {
  static_cast<void>(std::fprintf(stderr, "vmlaunch: %s\n", text.c_str()));
}

/// `vmlaunch FILE` is `vmlaunch run FILE`.
std::vector<std::string> with_verb(std::vector<std::string> arguments, const CLI::App& app) {
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    if (arguments[i] == "--as") {
      ++i;
    } else if (!arguments[i].starts_with('-')) {
      const auto is_it = [&](const CLI::App* verb) { return verb->get_name() == arguments[i]; };
      if (app.get_subcommands(is_it).empty()) {
        arguments.insert(arguments.begin(), "run");
      }
      break;
    }
  }
  return arguments;
}

int main_impl(std::vector<std::string> arguments) {
  Choice choice;
  CLI::App app("Starts a virtual machine from a config and gives the host back afterwards.",
               "vmlaunch");
  app.set_version_flag("--version", "vmlaunch " VMLAUNCH_VERSION);
  app.set_help_flag("-h,--help", "Print this help");
  app.add_option("--as", choice.as, "As root: whose rights the run has")->type_name("USER");
  app.require_subcommand(1);
  app.fallthrough();
  app.footer(
      "`vmlaunch FILE` is `vmlaunch run FILE`. Exit codes and all else: man vmlaunch, README.md");
  for (const auto add : kVerbs) {
    add(app, choice);
  }
  if (arguments.empty()) {
    print_error("Cannot start anything: no config is named\n" + app.help());
    return static_cast<int>(ExitCode::usage);
  }
  try {
    arguments = with_verb(std::move(arguments), app);
    app.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : static_cast<int>(ExitCode::usage);
  }
  const ExitCode code = choice.command();
  if (!std::cout.flush()) {
    throw Failure(worse(code, ExitCode::failed), "Cannot write to standard output; type: df -h");
  }
  return static_cast<int>(code);
}

}  // namespace

}  // namespace vmlaunch::launcher::cli

int main(int argc, char** argv) {
  namespace cli = vmlaunch::launcher::cli;
  using vmlaunch::launcher::ExitCode;
  // A file or socket of ours must not become a standard stream that was closed.
  int fd = -1;
  do {
    fd = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  } while (fd >= 0 && fd <= STDERR_FILENO);
  static_cast<void>(::close(fd));
  static_cast<void>(std::signal(SIGPIPE, SIG_IGN));
  // Ignored by whoever started us, it would keep us from hearing how our children end.
  static_cast<void>(std::signal(SIGCHLD, SIG_DFL));
  try {
    return cli::main_impl({argv + 1, argv + argc});
  } catch (const vmlaunch::launcher::config::ConfigError& error) {
    // As compilers write it, so that an editor finds the places.
    static_cast<void>(std::fprintf(stderr, "%s\n", error.what()));
    return static_cast<int>(error.code());
  } catch (const vmlaunch::launcher::Failure& failure) {
    cli::print_error(failure.what());
    return static_cast<int>(failure.code());
  } catch (const std::exception& error) {
    cli::print_error(error.what());
    return static_cast<int>(ExitCode::failed);
  }
}
