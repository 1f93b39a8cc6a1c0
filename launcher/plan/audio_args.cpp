#include <optional>
#include <string>

#include "base/text.hpp"
#include "launcher/plan/arguments.hpp"

namespace vmlaunch::launcher::plan {

namespace {

using config::VmSpec;

/// QEMU does not start without the server that it is told of. PipeWire listens like PulseAudio,
/// for which QEMU has a driver in all versions.
std::optional<std::string> sound_server(Arguments& args, const VmSpec::Audio& audio) {
  if (audio.backend == config::AudioBackend::none) {
    return std::nullopt;
  }
  const auto& credentials = args.plan.qemu.user.credentials;
  if (!audio.server && !credentials) {
    args.plan.warnings.emplace_back(
        "QEMU's user has no sound server: the guest is not heard; name one in audio.server, or a "
        "user in run_as");
    return std::nullopt;
  }
  const std::string path =
      audio.server ? *audio.server : survey::sound_socket_of(std::to_string(credentials->uid));
  if (!args.survey.sound_servers.contains(path)) {
    args.plan.warnings.push_back("there is no sound server at " + base::printable(path) +
                                 ": the guest is not heard; type: ls -l " +
                                 base::shell_quote(path));
    return std::nullopt;
  }
  if (audio.backend == config::AudioBackend::pipewire) {
    args.plan.warnings.push_back("QEMU speaks to PipeWire as to PulseAudio, at " +
                                 base::printable(path));
  }
  return path;
}

}  // namespace

void add_audio(Arguments& args) {
  if (!args.spec.audio) {
    return;
  }
  Json backend = {{"id", "audio"}, {"driver", "none"}};
  if (const auto server = sound_server(args, *args.spec.audio)) {
    backend["driver"] = "pa";
    backend["server"] = *server;
    args.share(*server);
    args.need_calls("pulse");
  }
  args.add_json("-audiodev", backend);
  args.add_json("-device", args.device("ich9-intel-hda", "sound", kSoundSlot));
  const bool is_micro = args.spec.audio->device == config::AudioDevice::hda_micro;
  args.add_json("-device",
                Json{{"driver", is_micro ? "hda-micro" : "hda-duplex"},
                     {"id", "codec"},
                     {"bus", "sound.0"},
                     {"audiodev", "audio"}});
}

}  // namespace vmlaunch::launcher::plan
