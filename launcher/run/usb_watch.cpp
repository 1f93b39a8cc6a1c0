#include "launcher/run/usb_watch.hpp"

#include <libudev.h>

#include <cerrno>
#include <utility>

#include "base/errors.hpp"
#include "base/file.hpp"

namespace vmlaunch::launcher::run {

namespace asio = boost::asio;

namespace {

constexpr const char* kAction = "watch for USB devices";

}  // namespace

UsbWatch::UsbWatch(asio::io_context& io, std::function<void()> on_change)
    : udev_(::udev_new(), ::udev_unref),
      monitor_(udev_ ? ::udev_monitor_new_from_netlink(udev_.get(), "kernel") : nullptr,
               ::udev_monitor_unref),
      descriptor_(io),
      on_change_(std::move(on_change)) {
  if (!monitor_) {
    base::throw_errno(kAction);
  }
  const auto require = [](int result) {
    if (result < 0) {
      base::throw_errno(-result, kAction);
    }
  };
  require(::udev_monitor_filter_add_match_subsystem_devtype(monitor_.get(), "usb", "usb_device"));
  require(::udev_monitor_enable_receiving(monitor_.get()));
  descriptor_.assign(base::duplicate(::udev_monitor_get_fd(monitor_.get())).release());
  wait();
}

void UsbWatch::wait() {
  descriptor_.async_wait(asio::posix::stream_descriptor::wait_read,
                         [this](const boost::system::error_code& error) {
                           if (!error) {
                             if (drain()) {
                               on_change_();
                             }
                             wait();
                           }
                         });
}

/// Takes all that is there; true if a device came or went, or news were lost.
bool UsbWatch::drain() {
  bool changed = false;
  for (;;) {
    errno = 0;
    udev_device* device = ::udev_monitor_receive_device(monitor_.get());
    if (device == nullptr) {
      return changed || errno == ENOBUFS;
    }
    changed = true;
    static_cast<void>(::udev_device_unref(device));
  }
}

}  // namespace vmlaunch::launcher::run
