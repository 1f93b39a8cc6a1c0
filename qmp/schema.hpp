#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "qmp/encoding.hpp"

namespace vmlaunch::qmp {

/// What a QEMU binary can do, from its query-qmp-schema: asked by names, since the numbers of its
/// types change with every build. About 200 KB in, less kept.
class Schema {
 public:
  /// `entries` is what query-qmp-schema returned. Throws ProtocolError for anything else.
  explicit Schema(const Json& entries);

  [[nodiscard]] bool has_command(const std::string& command) const;
  [[nodiscard]] bool has_event(const std::string& event) const;

  /// Whether a command takes the argument at a path such as "file/aio": members of members, through
  /// arrays and through each branch of a union.
  [[nodiscard]] bool has_arg(const std::string& command, std::string_view path) const;

  /// Whether a command or event ("blockdev-add"), or an argument of one ("blockdev-add/read-only"),
  /// bears a feature such as "deprecated" or "unstable", in any branch of a union that has it.
  [[nodiscard]] bool has_feature(std::string_view path, const std::string& feature) const;

  /// Whether a command can be sent out of band.
  [[nodiscard]] bool allows_oob(const std::string& command) const;

 private:
  struct Member {
    std::string name;
    std::string type;
    std::vector<std::string> features;
  };
  struct Entity {
    std::string kind;                   ///< "command", "event", "object", "array", "alternate", …
    std::string next;                   ///< the type of arguments or of elements
    std::vector<Member> members;        ///< of an object
    std::vector<std::string> branches;  ///< types of a union or an alternate
    std::vector<std::string> features;
    bool allow_oob = false;
  };

  void take(const Json& entry);
  [[nodiscard]] const Entity* find(const std::string& name, std::string_view kind) const;
  [[nodiscard]] std::vector<const Member*> find_args(const Entity& entity,
                                                     std::string_view path) const;
  [[nodiscard]] std::vector<const Member*> members_of(std::vector<const std::string*> types,
                                                      const std::string& name) const;

  std::map<std::string, Entity> entities_;
};

}  // namespace vmlaunch::qmp
