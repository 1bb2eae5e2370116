include $(sort $(wildcard $(BR2_EXTERNAL_FLOTILLA_PATH)/package/*/*.mk))
include $(sort $(wildcard $(BR2_EXTERNAL_FLOTILLA_PATH)/fs/*/*.mk))
