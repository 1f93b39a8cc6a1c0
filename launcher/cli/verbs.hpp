#pragma once

#include <functional>
#include <optional>
#include <string>

#include <CLI/CLI.hpp>

#include "launcher/exit_code.hpp"
#include "launcher/identity.hpp"
#include "launcher/run/preparation.hpp"

namespace vmlaunch::launcher::cli {

/// What the command line said.
struct Choice {
  std::optional<std::string> as;
  std::function<ExitCode()> command;
};

/// A config that the command line names, and what it says in place of the config.
struct NamedConfig {
  std::string file;
  std::optional<config::Sandbox> sandbox;
  bool force_tainted = false;
};

/// Adds both to a verb.
void add_config(CLI::App& verb, NamedConfig& named);

/// Reads it.
[[nodiscard]] config::VmSpec load(const NamedConfig& named, const run::OpenConfig& config);

/// Each adds its verb to the program; `choice` outlives it.
void add_run(CLI::App& app, Choice& choice);
void add_plan(CLI::App& app, Choice& choice);
void add_check(CLI::App& app, Choice& choice);
void add_setup(CLI::App& app, Choice& choice);
void add_recover(CLI::App& app, Choice& choice);
void add_host(CLI::App& app, Choice& choice);
void add_device(CLI::App& app, Choice& choice);
void add_isolation(CLI::App& app, Choice& choice);
void add_guardian(CLI::App& app, Choice& choice);

/// A config that was opened, and whose it is.
struct Trusted {
  run::OpenConfig config;
  Authority authority = Authority::user;
};

/// Throws Failure when the config cannot be trusted with the rights of this run.
[[nodiscard]] Trusted open_trusted(const std::string& file, const Identity& identity);

/// Opens the config and gives up every right but the user's. Root without a person behind it opens
/// it before it becomes nobody; a person's rights are taken on first, and decide what may be
/// opened.
[[nodiscard]] Trusted open_and_become(const std::string& file, const Identity& identity);

/// A config with all that follows from it, for verbs that only look: nothing is opened for writing,
/// and root's rights are used only to see what a run as root would see.
[[nodiscard]] run::Prepared look_at(const NamedConfig& named, const std::optional<std::string>& as);

}  // namespace vmlaunch::launcher::cli
