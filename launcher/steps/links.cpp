#include "launcher/steps/links.hpp"

#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <net/if_arp.h>
#include <netinet/ether.h>
#include <netlink/errno.h>
#include <netlink/netlink.h>
#include <netlink/route/link.h>
#include <netlink/route/link/macvtap.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <system_error>

#include "base/errors.hpp"
#include "base/file.hpp"
#include "launcher/config/values.hpp"
#include "launcher/steps/steps.hpp"
#include "launcher/survey/links.hpp"

namespace vmlaunch::launcher::steps {

namespace {

using base::check;

ifreq request_for(const std::string& name) {
  ifreq request{};
  if (name.empty() || name.size() >= sizeof request.ifr_name) {
    base::throw_errno(EINVAL, "name a network link");
  }
  std::copy(name.begin(), name.end(), std::begin(request.ifr_name));
  return request;
}

base::UniqueFd open_tun(const std::string& name, int flags) {
  base::UniqueFd tap = base::open_file("/dev/net/tun", O_RDWR);
  ifreq request = request_for(name);
  request.ifr_flags = static_cast<short>(flags);
  check(::ioctl(tap.get(), TUNSETIFF, &request), "open the tap " + name);
  return tap;
}

base::UniqueFd any_socket() {
  return base::UniqueFd(check(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), "open a socket"));
}

/// A bridge takes the lowest address of its ports, and the smallest packet size: neither may come
/// from a guest's tap.
void make_harmless(int socket,
                   const std::string& name,
                   const std::string& bridge,
                   const std::string& guest_mac) {
  ifreq request = request_for(name);
  ether_addr address{};
  if (::ether_aton_r(guest_mac.c_str(), &address) == nullptr) {
    base::throw_errno(EINVAL, "read the address " + guest_mac);
  }
  address.ether_addr_octet[0] = 0xfe;
  request.ifr_hwaddr.sa_family = ARPHRD_ETHER;
  std::memcpy(request.ifr_hwaddr.sa_data, &address, sizeof address);
  check(::ioctl(socket, SIOCSIFHWADDR, &request), "set the address of " + name);
  ifreq size = request_for(bridge);
  check(::ioctl(socket, SIOCGIFMTU, &size), "read the packet size of " + bridge);
  request = request_for(name);
  request.ifr_mtu = size.ifr_mtu;
  check(::ioctl(socket, SIOCSIFMTU, &request), "set the packet size of " + name);
}

/// A bridge without ports takes the address of the first that comes, and zeros after the last
/// (net/bridge/br_stp_if.c). One that was given its address keeps it.
void keep_address(int socket, const std::string& bridge) {
  ifreq request = request_for(bridge);
  check(::ioctl(socket, SIOCGIFHWADDR, &request), "read the address of the bridge " + bridge);
  const ether_addr none{};
  if (std::memcmp(request.ifr_hwaddr.sa_data, &none, sizeof none) != 0) {
    check(::ioctl(socket, SIOCSIFHWADDR, &request), "keep the address of the bridge " + bridge);
  }
}

void join(int socket, const std::string& name, const std::string& bridge) {
  if (!survey::has_steady_address(base::Tree(""), bridge)) {
    keep_address(socket, bridge);
  }
  ifreq port = request_for(name);
  check(::ioctl(socket, SIOCGIFINDEX, &port), "find " + name);
  ifreq request = request_for(bridge);
  request.ifr_ifindex = port.ifr_ifindex;
  check(::ioctl(socket, SIOCBRADDIF, &request), "put " + name + " on the bridge " + bridge);
}

void set_up(int socket, const std::string& name) {
  ifreq request = request_for(name);
  check(::ioctl(socket, SIOCGIFFLAGS, &request), "look at " + name);
  request.ifr_flags = static_cast<short>(request.ifr_flags | IFF_UP);
  check(::ioctl(socket, SIOCSIFFLAGS, &request), "set " + name + " up");
}

/// The library has numbers of its own for errors.
void check_netlink(int result, const std::string& action) {
  if (result < 0) {
    switch (-result) {
      case NLE_EXIST:
        base::throw_errno(EEXIST, action);
      case NLE_BUSY:
        base::throw_errno(EBUSY, action);
      case NLE_PERM:
        base::throw_errno(EPERM, action);
      case NLE_NODEV:
      case NLE_OBJ_NOTFOUND:
        base::throw_errno(ENODEV, action);
      default:
        throw std::system_error(
            EIO, std::generic_category(), "Cannot " + action + " (" + ::nl_geterror(result) + ")");
    }
  }
}

struct Free {
  void operator()(nl_sock* socket) const { ::nl_socket_free(socket); }
  void operator()(rtnl_link* link) const { ::rtnl_link_put(link); }
  void operator()(nl_addr* address) const { ::nl_addr_put(address); }
};

std::unique_ptr<nl_sock, Free> connect() {
  std::unique_ptr<nl_sock, Free> socket(::nl_socket_alloc());
  if (!socket) {
    base::throw_errno(ENOMEM, "open netlink");
  }
  check_netlink(::nl_connect(socket.get(), NETLINK_ROUTE), "open netlink");
  return socket;
}

int index_of(const std::string& name) {
  ifreq request = request_for(name);
  check(::ioctl(any_socket().get(), SIOCGIFINDEX, &request), "find the link " + name);
  return request.ifr_ifindex;
}

}  // namespace

base::UniqueFd new_tap(const std::string& name,
                       const std::string& bridge,
                       const std::string& guest_mac) {
  // Exclusive: else a tap that somebody else made under that name would be taken.
  base::UniqueFd tap = open_tun(name, IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_TUN_EXCL);
  const base::UniqueFd socket = any_socket();
  make_harmless(socket.get(), name, bridge, guest_mac);
  join(socket.get(), name, bridge);
  set_up(socket.get(), name);
  return tap;
}

base::UniqueFd old_tap(const std::string& name, bool multi_queue) {
  return open_tun(name, IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (multi_queue ? IFF_MULTI_QUEUE : 0));
}

void new_macvtap(const std::string& name, const std::string& link, const std::string& mac) {
  const std::string action = "make the macvtap " + name + " on " + link;
  const auto socket = connect();
  const std::unique_ptr<rtnl_link, Free> made(::rtnl_link_macvtap_alloc());
  nl_addr* parsed = nullptr;
  check_netlink(::nl_addr_parse(mac.c_str(), AF_LLC, &parsed), "read the address " + mac);
  const std::unique_ptr<nl_addr, Free> address(parsed);
  if (!made) {
    base::throw_errno(ENOMEM, action);
  }
  ::rtnl_link_set_name(made.get(), name.c_str());
  ::rtnl_link_set_link(made.get(), index_of(link));
  ::rtnl_link_set_addr(made.get(), address.get());
  ::rtnl_link_set_flags(made.get(), IFF_UP);
  const auto mode = static_cast<std::uint32_t>(::rtnl_link_macvtap_str2mode("bridge"));
  check_netlink(::rtnl_link_macvtap_set_mode(made.get(), mode), action);
  check_netlink(::rtnl_link_add(socket.get(), made.get(), NLM_F_CREATE | NLM_F_EXCL), action);
}

void delete_link(unsigned index) {
  const auto socket = connect();
  const std::unique_ptr<rtnl_link, Free> link(::rtnl_link_alloc());
  if (!link) {
    base::throw_errno(ENOMEM, "remove a link");
  }
  ::rtnl_link_set_ifindex(link.get(), static_cast<int>(index));
  check_netlink(::rtnl_link_delete(socket.get(), link.get()),
                "remove the link number " + std::to_string(index));
}

std::string own_link_name(const std::string& vm, unsigned nic) {
  std::string start = vm.substr(0, 8);
  std::replace(start.begin(), start.end(), '.', '_');  // which means a VLAN in a link's name
  std::array<char, IFNAMSIZ> name{};
  static_cast<void>(std::snprintf(
      name.data(), name.size(), "%s-%04x-%u", start.c_str(), config::hash_of(vm) & 0xffffU, nic));
  return name.data();
}

}  // namespace vmlaunch::launcher::steps
