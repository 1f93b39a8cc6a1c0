#include <boost/asio/io_context.hpp>

#include "launcher/plan/late.hpp"
#include "late.hpp"
