################################################################################
#
# flotilla-restic
#
################################################################################

FLOTILLA_RESTIC_VERSION = 0.18.0
FLOTILLA_RESTIC_SITE = https://github.com/restic/restic/releases/download/v$(FLOTILLA_RESTIC_VERSION)
FLOTILLA_RESTIC_SOURCE = restic_$(FLOTILLA_RESTIC_VERSION)_linux_$(FLOTILLA_RESTIC_ARCH).bz2
FLOTILLA_RESTIC_LICENSE = BSD-2-Clause
FLOTILLA_RESTIC_CPE_ID_VENDOR = restic
FLOTILLA_RESTIC_CPE_ID_PRODUCT = restic

ifeq ($(BR2_aarch64),y)
FLOTILLA_RESTIC_ARCH = arm64
else ifeq ($(BR2_arm),y)
FLOTILLA_RESTIC_ARCH = arm
else
FLOTILLA_RESTIC_ARCH = amd64
endif

# One compressed file, not an archive.
define FLOTILLA_RESTIC_EXTRACT_CMDS
	$(call suitable-extractor,$(FLOTILLA_RESTIC_SOURCE)) \
		$(FLOTILLA_RESTIC_DL_DIR)/$(FLOTILLA_RESTIC_SOURCE) > $(@D)/restic
endef

define FLOTILLA_RESTIC_INSTALL_TARGET_CMDS
	$(INSTALL) -D -m 0755 $(@D)/restic $(TARGET_DIR)/usr/bin/restic
endef

$(eval $(generic-package))
