/* SPDX-License-Identifier: MIT */
#include "guest/image.h"

#include <elf.h>
#include <fcntl.h>
#include <jansson.h>
#include <string.h>
#include <sys/stat.h>

#include "base/digest.h"
#include "base/fd.h"
#include "guest/initramfs.h"
#include "guest/kernel-package.h"

#define BUSYBOX     "/bin/busybox"
#define PROGRAM_MAX (64U * 1024 * 1024)
#define KERNEL_NAME "vmlinuz"
#define INITRD_NAME "initrd.img"
#define ABOUT_NAME  "image.json"

/* What a guest of ours needs: its disk, its network, its agent's port, entropy, and overlays for
 * containers. What one of them needs and is not listed is added, at the price of reading the
 * package once more. */
static const char *const modules[] = {
        "virtio_ring",
        "virtio",
        "virtio_pci_modern_dev",
        "virtio_pci_legacy_dev",
        "virtio_pci",
        "virtio_console",
        "virtio_blk",
        "failover",
        "net_failover",
        "virtio_net",
        "virtio_rng",
        "overlay",
};

/* And one for containers: their disks and what is on these. */
static const char *const container_modules[] = { "scsi_mod", "virtio_scsi", "sd_mod", "erofs" };

typedef struct program {
        char *data; /* owned */
        size_t n;
} program;

typedef struct image_build {
        kernel_package kernel;
        const module *order[MODULE_COUNT_MAX];
        size_t n_order;
        program init;
        program workload;
        program busybox;
        crun_files crun;
        cpio_writer initrd;
} image_build;

static void image_build_free(image_build *b) {
        kernel_package_done(&b->kernel);
        free(b->init.data);
        free(b->workload.data);
        free(b->busybox.data);
        crun_files_done(&b->crun);
        cpio_done(&b->initrd);
        free(b);
}

DEFINE_CLEANUP(image_build *, image_build_free)

static int join(const char *folder, const char *file, char **ret) {
        if (asprintf(ret, "%s/%s", folder, file) >= 0)
                return 0;
        *ret = NULL;
        return -ENOMEM;
}

/* The guest has no dynamic linker: a program that names one would not start there. */
static bool is_static_elf(const program *p) {
        Elf64_Ehdr header;

        if (p->n < sizeof(header))
                return false;
        memcpy(&header, p->data, sizeof(header));
        if (memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 ||
            header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_phentsize != sizeof(Elf64_Phdr) ||
            header.e_phoff > p->n || header.e_phnum * sizeof(Elf64_Phdr) > p->n - header.e_phoff)
                return false;
        for (size_t i = 0; i < header.e_phnum; i++) {
                Elf64_Phdr segment;

                memcpy(&segment, p->data + header.e_phoff + i * sizeof(segment), sizeof(segment));
                if (segment.p_type == PT_INTERP)
                        return false;
        }
        return true;
}

static int read_program(const char *path, const char *help, program *ret, ferry_error *reterr) {
        int r;

        r = file_read(AT_FDCWD, path, PROGRAM_MAX, &ret->data, &ret->n);
        if (r < 0)
                return ferry_error_prefix(reterr, ferry_error_set_errno(reterr, r, "%s", path),
                                          "%s", help);
        if (!is_static_elf(ret))
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "%s: %s is not a static x86-64 program", help, path);
        return 0;
}

/* Where our own guest programs are, seen from the running program: beside it, in the build tree
 * (src/cli/ferry, src/guest/ferry-init), or installed (bin/ferry, libexec/ferry/). */
static int find_agents(char **ret, ferry_error *reterr) {
        static const char *const places[] = { ".", "../guest", "../libexec/ferry" };
        _cleanup_(freep) char *folder = NULL;
        char self[4096];
        ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
        char *slash;

        if (n < 0)
                return ferry_error_set_errno(reterr, -errno, "/proc/self/exe");
        self[n] = '\0';
        slash = strrchr(self, '/');
        if (slash)
                *slash = '\0';
        for (size_t i = 0; i <= ELEMENTS(places); i++) {
                _cleanup_(freep) char *init = NULL;
                bool installed = i == ELEMENTS(places);

                free(TAKE_PTR(folder));
                if ((installed ? asprintf(&folder, "%s", FERRY_LIBEXEC_DIR)
                               : asprintf(&folder, "%s/%s", self, places[i])) < 0) {
                        folder = NULL;
                        return ferry_error_set_errno(reterr, -ENOMEM, "ferry-init");
                }
                if (join(folder, "ferry-init", &init) < 0)
                        return ferry_error_set_errno(reterr, -ENOMEM, "ferry-init");
                if (access(init, R_OK) == 0) {
                        *ret = TAKE_PTR(folder);
                        return 0;
                }
        }
        return ferry_error_set(
                reterr, FERRY_NOT_FOUND, -ENOENT,
                "no ferry-init near %s nor in %s: build ferry whole (ninja), or name "
                "the folder it is in",
                self, FERRY_LIBEXEC_DIR);
}

static int read_agents(const char *agent_dir, image_build *b, ferry_error *reterr) {
        static const char help[] = "guest program (build ferry whole, or name its folder)";
        _cleanup_(freep) char *found = NULL, *init = NULL, *workload = NULL;
        int r;

        if (!agent_dir) {
                r = find_agents(&found, reterr);
                if (r < 0)
                        return r;
                agent_dir = found;
        }
        r = join(agent_dir, "ferry-init", &init);
        if (r == 0)
                r = join(agent_dir, "ferry-workload", &workload);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "%s", agent_dir);
        r = read_program(init, help, &b->init, reterr);
        if (r == 0)
                r = read_program(workload, help, &b->workload, reterr);
        return r;
}

static int default_cache(char **ret, ferry_error *reterr) {
        const char *cache = getenv("XDG_CACHE_HOME");
        const char *home = getenv("HOME");

        *ret = NULL;
        if (cache && cache[0] == '/')
                return join(cache, "ferry", ret);
        if (home && home[0] == '/')
                return join(home, ".cache/ferry", ret);
        return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -ENOENT,
                               "neither XDG_CACHE_HOME nor HOME is set: name a cache folder");
}

static int read_kernel(const guest_image_options *options, image_build *b, ferry_error *reterr) {
        _cleanup_(freep) char *cache = NULL, *found = NULL;
        const char *wanted[ELEMENTS(modules) + ELEMENTS(container_modules)];
        const char *deb = options->kernel_deb;
        size_t n = ELEMENTS(modules);
        int r;

        if (!deb) {
                if (!options->cache_dir) {
                        r = default_cache(&cache, reterr);
                        if (r < 0)
                                return r;
                }
                r = kernel_package_find(cache ? cache : options->cache_dir, &found, reterr);
                if (r < 0)
                        return r;
                deb = found;
        }
        memcpy(wanted, modules, sizeof(modules));
        if (options->containers) {
                memcpy(wanted + n, container_modules, sizeof(container_modules));
                n += ELEMENTS(container_modules);
        }
        r = kernel_package_read(deb, wanted, n, &b->kernel, reterr);
        if (r < 0)
                return r;
        r = module_list_order(&b->kernel.modules, b->order, &b->n_order);
        return r < 0 ? ferry_error_set_errno(reterr, r, "modules of %s", deb) : 0;
}

static json_t *digest_json(const void *data, size_t n) {
        uint8_t digest[DIGEST_SIZE];
        char text[2 * DIGEST_SIZE + 1];

        digest_sha256(data, n, digest);
        hex_encode(digest, sizeof(digest), text);
        return json_string(text);
}

static char *describe(const image_build *b) {
        json_t *names = json_array(), *about;
        char *text;

        for (size_t i = 0; i < b->n_order; i++)
                (void)json_array_append_new(names, json_string(b->order[i]->name));
        if (json_array_size(names) != b->n_order) {
                json_decref(names);
                return NULL;
        }
        about = json_pack("{s:s, s:s, s:o, s:o, s:o}", "cmdline", GUEST_IMAGE_CMDLINE,
                          "kernel_version", b->kernel.version, "kernel_sha256",
                          digest_json(b->kernel.image, b->kernel.n_image), "initrd_sha256",
                          digest_json(b->initrd.data, b->initrd.n), "modules", names);
        text = about ? json_dumps(about, JSON_SORT_KEYS | JSON_INDENT(2)) : NULL;
        json_decref(about);
        return text;
}

/* image.json is the last: where it is, the others are whole and it is about them. */
static int write_files(const char *folder, const image_build *b, ferry_error *reterr) {
        _cleanup_(freep) char *about = describe(b);
        _cleanup_(closep) int fd = -EBADF;
        int r;

        if (!about)
                return ferry_error_set_errno(reterr, -ENOMEM, "%s", ABOUT_NAME);
        if (mkdir(folder, 0755) < 0 && errno != EEXIST)
                return ferry_error_set_errno(reterr, -errno, "cannot make %s", folder);
        fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
                return ferry_error_set_errno(reterr, -errno, "cannot open %s", folder);
        r = file_replace(fd, KERNEL_NAME, b->kernel.image, b->kernel.n_image, 0644, false);
        if (r == 0)
                r = file_replace(fd, INITRD_NAME, b->initrd.data, b->initrd.n, 0644, false);
        if (r == 0)
                r = file_replace(fd, ABOUT_NAME, about, strlen(about), 0644, false);
        return r < 0 ? ferry_error_set_errno(reterr, r, "cannot write to %s", folder) : 0;
}

static int fill_result(const char *folder, const image_build *b, guest_image_result *ret) {
        int r;

        *ret = (guest_image_result){ .kernel_version = strdup(b->kernel.version),
                                     .cmdline = strdup(GUEST_IMAGE_CMDLINE) };
        r = ret->kernel_version && ret->cmdline ? 0 : -ENOMEM;
        if (r == 0)
                r = join(folder, KERNEL_NAME, &ret->kernel);
        if (r == 0)
                r = join(folder, INITRD_NAME, &ret->initrd);
        if (r == 0)
                r = join(folder, ABOUT_NAME, &ret->description);
        if (r < 0)
                guest_image_result_done(ret);
        return r;
}

int guest_image_build(const guest_image_options *options, guest_image_result *ret,
                      ferry_error *reterr) {
        _cleanup_(image_build_freep) image_build *b = calloc(1, sizeof(*b));
        initramfs_content content;
        int r;

        if (!b)
                return ferry_error_set_errno(reterr, -ENOMEM, "guest image");
        if (!options->output_dir)
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "guest image: no output folder");
        /* What is quickly found missing comes before the download. */
        r = read_agents(options->agent_dir, b, reterr);
        if (r == 0)
                r = read_program(options->busybox ? options->busybox : BUSYBOX,
                                 "busybox (install busybox-static, or name one)", &b->busybox,
                                 reterr);
        if (r == 0 && options->containers)
                r = crun_read(options->crun, &b->crun, reterr);
        if (r == 0)
                r = read_kernel(options, b, reterr);
        if (r < 0)
                return r;
        content = (initramfs_content){
                .kernel_version = b->kernel.version,
                .modules = b->order,
                .n_modules = b->n_order,
                .init = { .data = b->init.data, .n = b->init.n },
                .workload = { .data = b->workload.data, .n = b->workload.n },
                .busybox = { .data = b->busybox.data, .n = b->busybox.n },
                .crun = options->containers ? &b->crun : NULL,
        };
        r = initramfs_write(&content, &b->initrd);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "cannot make the initramfs");
        r = write_files(options->output_dir, b, reterr);
        if (r < 0)
                return r;
        r = ret ? fill_result(options->output_dir, b, ret) : 0;
        return r < 0 ? ferry_error_set_errno(reterr, r, "guest image") : 0;
}

void guest_image_result_done(guest_image_result *result) {
        free(result->kernel);
        free(result->initrd);
        free(result->description);
        free(result->kernel_version);
        free(result->cmdline);
        *result = (guest_image_result){ 0 };
}
