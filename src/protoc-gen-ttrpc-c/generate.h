/* SPDX-License-Identifier: MIT */
#pragma once

/* From the description of one .proto file to the C files of its services. Pure. */

#include <stddef.h>

#include "google/protobuf/descriptor.pb-c.h"

/* 0: *ret_header and *ret_source are new strings, or NULL when the file has no service. -ENOTSUP:
 * *ret_error, a new string, says what cannot be done. -ENOMEM; -EINVAL: an incomplete description.
 */
int generate_file(const Google__Protobuf__FileDescriptorProto *file, char **ret_header,
                  char **ret_source, char **ret_error);
