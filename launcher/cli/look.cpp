#include <map>

#include "launcher/cli/verbs.hpp"
#include "launcher/run/guardian_unit.hpp"
#include "launcher/steps/recovery.hpp"
#include "sandbox/privileges.hpp"

namespace vmlaunch::launcher::cli {

Trusted open_trusted(const std::string& file, const Identity& identity) {
  run::OpenConfig config = run::open_config(file);
  const Authority authority =
      identity.privileged
          ? derive_authority(
                config.file.get(), config.folder.get(), config.name, identity.user.credentials.uid)
          : Authority::user;
  return {std::move(config), authority};
}

Trusted open_and_become(const std::string& file, const Identity& identity) {
  if (identity.invoker) {
    sandbox::become(identity.user.credentials);
    return open_trusted(file, identity);
  }
  Trusted trusted = open_trusted(file, identity);
  sandbox::become(identity.user.credentials);
  return trusted;
}

void add_config(CLI::App& verb, NamedConfig& named) {
  verb.add_option("FILE", named.file, "The config")->required();
  const auto& names = config::sandbox_names();
  verb.add_option(
          "--sandbox",
          named.sandbox,
          "What becomes of system calls that no device needs, in place of the config's word")
      ->transform(CLI::CheckedTransformer(
          std::map<std::string, config::Sandbox>(names.begin(), names.end())))
      ->type_name("on|log|off");
  verb.add_flag("--force-tainted",
                named.force_tainted,
                "Also with devices that did not come back from an earlier guest");
}

config::VmSpec load(const NamedConfig& named, const run::OpenConfig& config) {
  config::VmSpec spec = run::load_config(config);
  spec.sandbox = named.sandbox.value_or(spec.sandbox);
  spec.force_tainted = named.force_tainted;
  return spec;
}

run::Prepared look_at(const NamedConfig& named, const std::optional<std::string>& as) {
  const Identity identity = find_identity(as);
  const std::vector<std::string> leftovers = steps::leftovers(steps::find_state_folders(), "");
  run::Known known = run::find_known(run::will_start_unit(identity));
  if (identity.privileged && identity.invoker) {
    sandbox::become(identity.user.credentials);
  }
  const Trusted trusted = open_trusted(named.file, identity);
  run::Prepared prepared =
      run::prepare(load(named, trusted.config), identity, trusted.authority, std::move(known));
  std::vector<std::string>& warnings = prepared.plan.warnings;
  warnings.insert(warnings.begin(), leftovers.begin(), leftovers.end());
  return prepared;
}

}  // namespace vmlaunch::launcher::cli
