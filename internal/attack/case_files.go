package attack

// fileCases are about files outside of the grants. Each has a directory there
// to itself, which the suite compares with what it was.
func fileCases() []Case {
	files := by(WallFiles, "EACCES", "EXDEV", "EPERM")
	c := func(name, what string, attack func(*agent), stops ...stop) Case {
		return Case{Name: name, Category: Files, What: what, twin: "workdir", files: true, attack: attack, stops: append([]stop{files}, stops...)}
	}
	shared := by(WallFilter, "ENOSYS", "EPERM", "EACCES")
	device := c("device_ioctl", "send commands to devices", deviceIoctl, by(WallFiles, "ENOENT"), shared)
	truncate := c("truncate_outside", "empty a file outside without opening it", truncateOutside)
	truncate.needs = []need{landlockABI(3)}
	device.needs = []need{landlockABI(5)}
	missing := c("missing_path", "profit from a policy path that does not exist: the others must not be void", readOutside)
	missing.group = "missing"
	metadata := c("metadata_outside", "change modes, owners, times and attributes of files outside", metadataOutside, by(WallGate, "EPERM", "EACCES"), shared)
	metadata.open = "Landlock has no right for attributes: those of the user's own files can be changed, their content cannot"
	race := c("link_race", "exchange a file for a link to a secret while it is being opened", linkRace, by(WallFiles, wordNever))
	race.raced = true
	return []Case{
		c("read_outside", "read a file outside by every call, path and link", readOutside, by(WallFiles, "ELOOP")),
		c("write_outside", "write, append to, create and empty files outside", writeOutside),
		truncate,
		c("make_outside", "make directories, nodes and links outside", makeOutside),
		c("remove_outside", "remove files and directories outside", removeOutside),
		c("rename_across", "move files across the border, exchange them, white them out", renameAcross),
		c("link_across", "link a secret into the workspace, or the workspace to outside", linkAcross),
		c("execute_outside", "run a program outside of the grants", executeOutside),
		metadata, race, device, missing,
		c("subvolumes", "make a subvolume of btrfs by a directory that is open for reading, which Landlock is not asked about", makeSubvolume, by(WallFilter, "ENOTTY")),
		c("make_devices", "make a device file in the workspace", makeDevices, by(WallPrivilege, "EPERM"), shared),
		c("kernel_files", "change kernel settings, cgroups and system files", kernelFiles, by(WallPrivilege, "EACCES", "EPERM"), by(WallFiles, "EROFS", "ENOENT")),
		c("shared_memory_files", "exchange data with the host through /dev/shm", shmFiles, by(WallFiles, "ENOENT")),
		c("message_queues", "exchange data with the host through POSIX message queues", posixQueues, shared),
		c("sysv_ipc", "exchange data with the host through System V shared memory, queues and semaphores", sysvIPC, shared),
	}
}
