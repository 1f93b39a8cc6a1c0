#include <cap-ng.h>
#include <seccomp.h>
#include <vector>

#include <CLI/CLI.hpp>
#include <boost/asio/io_context.hpp>
#include <nlohmann/json.hpp>
#include <pci/pci.h>
#include <spdlog/spdlog.h>
#include <systemd/sd-bus.h>

#include "base/text.hpp"
#include "qmp/client.hpp"
